#include "linear_cpu.h"

#include <algorithm>
#include <vector>

namespace aurora {
namespace {

// Weights of a panel that are in order at a time: they and a tile of activations stay in the first level of the cache.
constexpr std::size_t PANEL_INPUTS = 1024;

// Panels of one piece of work.
constexpr std::size_t PANELS_AT_ONCE = 4;

// Activations of all rows in codes, in tiles of nearly the same number of rows.
class Activations {
public:
    Activations(const Kernels& kernels, const float* x, std::size_t n_rows, const BlockWeights& weights,
                const Parallel& parallel)
        : n_rows_(n_rows),
          n_tiles_((n_rows + kernels.tile_rows - 1) / kernels.tile_rows),
          n_blocks_(weights.n_blocks()),
          block_size_(weights.block_size) {
        // Kept by the thread that asks, from one layer to the next.
        thread_local std::vector<std::int8_t> codes;
        thread_local std::vector<float> scales;
        thread_local std::vector<std::int32_t> offsets;
        if (codes.size() < n_rows * n_blocks_ * block_size_) codes.resize(n_rows * n_blocks_ * block_size_);
        if (scales.size() < n_rows * n_blocks_) {
            scales.resize(n_rows * n_blocks_);
            offsets.resize(n_rows * n_blocks_);
        }
        codes_ = codes.data(), scales_ = scales.data(), offsets_ = offsets.data();
        const auto quantize = [&](std::size_t i) {
            kernels.quantize(x + first_row(i) * weights.n_inputs, weights.n_inputs, weights.n_inputs, tile(i, 0, n_blocks_));
        };
        if (n_tiles_ == 1)
            quantize(0);
        else
            parallel(n_tiles_, quantize);
    }

    std::size_t n_tiles() const { return n_tiles_; }
    std::size_t first_row(std::size_t i) const { return i * n_rows_ / n_tiles_; }

    // Some blocks of the rows of a tile.
    TileRows tile(std::size_t i, std::size_t first_block, std::size_t n_blocks) const {
        const std::size_t first = first_row(i), n_rows = first_row(i + 1) - first;
        const std::size_t at = first * n_blocks_ + first_block * n_rows;
        return {n_rows, n_blocks, block_size_, codes_ + at * block_size_, scales_ + at, offsets_ + at};
    }

private:
    std::size_t n_rows_, n_tiles_, n_blocks_, block_size_;
    std::int8_t* codes_;
    float* scales_;
    std::int32_t* offsets_;
};

// Some blocks of some outputs: what is brought into order at a time.
struct Chunk {
    std::size_t first_output, n_outputs, first_block, n_blocks;
};

// Ask for a part of the weights of a chunk, so that they are in the cache when it is their turn. Without this the
// products would wait for the memory, and the memory for the products.
void prefetch(const BlockWeights& weights, const Chunk& chunk, std::size_t part, std::size_t n_parts) {
    constexpr std::size_t LINE = 64;
    const std::size_t row_bytes = weights.row_bytes(), n_bytes = chunk.n_blocks * weights.block_bytes();
    const std::uint8_t* from = weights.codes + chunk.first_output * row_bytes + chunk.first_block * weights.block_bytes();
    for (std::size_t i = part * chunk.n_outputs / n_parts; i < (part + 1) * chunk.n_outputs / n_parts; ++i)
        for (std::size_t j = 0; j < n_bytes; j += LINE) __builtin_prefetch(from + i * row_bytes + j, 0, 2);
}

// Bring the weights of a chunk into the order of the product. Those of 4 bits become codes of 8 first, in the cache.
void pack(const Kernels& kernels, const BlockWeights& weights, const Chunk& chunk, std::uint8_t* panel, float* panel_scales) {
    alignas(64) std::uint8_t expanded[PANEL_INPUTS * MAX_PANEL_COLUMNS];
    const std::size_t n_blocks = weights.n_blocks(), n_inputs = chunk.n_blocks * weights.block_size;
    std::size_t row_bytes = weights.row_bytes();
    const std::uint8_t* from = weights.codes + chunk.first_output * row_bytes + chunk.first_block * weights.block_bytes();
    if (weights.bits == 4) {
        for (std::size_t i = 0; i < chunk.n_outputs; ++i)
            kernels.expand_codes(from + i * row_bytes, n_inputs / 2, expanded + i * n_inputs);
        from = expanded, row_bytes = n_inputs;
    }
    kernels.pack_panel(from, weights.scales + chunk.first_output * n_blocks + chunk.first_block, chunk.n_outputs,
                       chunk.n_blocks, weights.block_size, row_bytes, n_blocks, panel, panel_scales);
}

void multiply_chunk(const Kernels& kernels, const BlockWeights& weights, const Activations& activations, float* y,
                    const Chunk& chunk, const Chunk* next) {
    alignas(64) std::uint8_t panel[PANEL_INPUTS * MAX_PANEL_COLUMNS];
    alignas(64) float panel_scales[PANEL_INPUTS / 16 * MAX_PANEL_COLUMNS];
    pack(kernels, weights, chunk, panel, panel_scales);
    for (std::size_t i = 0; i < activations.n_tiles(); ++i) {
        if (next != nullptr) prefetch(weights, *next, i, activations.n_tiles());
        kernels.multiply_tile(activations.tile(i, chunk.first_block, chunk.n_blocks), panel, panel_scales, chunk.n_outputs,
                              chunk.first_block == 0,
                              y + activations.first_row(i) * weights.n_outputs + chunk.first_output, weights.n_outputs);
    }
}

// Outputs from `first` to before `last`, panel by panel and each along its inputs.
void multiply_panels(const Kernels& kernels, const BlockWeights& weights, const Activations& activations, float* y,
                     std::size_t first, std::size_t last) {
    const std::size_t blocks_at_once = PANEL_INPUTS / weights.block_size;
    const auto chunk_at = [&](std::size_t output, std::size_t block) -> Chunk {
        return {output, std::min(kernels.panel_columns, last - output), block,
                std::min(blocks_at_once, weights.n_blocks() - block)};
    };
    Chunk chunk = chunk_at(first, 0);
    for (;;) {
        std::size_t output = chunk.first_output, block = chunk.first_block + chunk.n_blocks;
        if (block == weights.n_blocks()) output += chunk.n_outputs, block = 0;
        if (output == last) return multiply_chunk(kernels, weights, activations, y, chunk, nullptr);
        const Chunk next = chunk_at(output, block);
        multiply_chunk(kernels, weights, activations, y, chunk, &next);
        chunk = next;
    }
}

}  // namespace

void linear(const Kernels& kernels, const BlockWeights& weights, const float* x, std::size_t n_rows, float* y,
            const Parallel& parallel) {
    if (n_rows == 0) return;
    if (n_rows == 1) return linear_row(kernels, weights, x, y, parallel);
    const Activations activations(kernels, x, n_rows, weights, parallel);
    const std::size_t step = PANELS_AT_ONCE * kernels.panel_columns;
    parallel((weights.n_outputs + step - 1) / step, [&](std::size_t i) {
        multiply_panels(kernels, weights, activations, y, i * step, std::min((i + 1) * step, weights.n_outputs));
    });
}

}  // namespace aurora
