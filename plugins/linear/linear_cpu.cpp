#include "linear_cpu.h"

#include <algorithm>
#include <vector>

namespace aurora {
namespace {

// Bytes of weights that one piece of work of a single row reads: enough to be worth a hand-over, and to be shared well.
constexpr std::size_t ROW_BYTES_AT_ONCE = 96 * 1024;

// Memory of one thread, kept from one layer to the next.
template <typename T>
T* at_least(std::vector<T>& memory, std::size_t n) {
    if (memory.size() < n) memory.resize(n);
    return memory.data();
}

void multiply_one_row(const Kernels& kernels, const BlockWeights& weights, const float* x, const Added& added, float* y,
                      const Parallel& parallel) {
    thread_local std::vector<std::int8_t> codes;
    thread_local std::vector<float> scales;
    thread_local std::vector<std::int32_t> offsets;
    const std::size_t n_blocks = weights.n_blocks(), row_bytes = weights.row_bytes(), n_codes = n_blocks * weights.block_size;
    const std::size_t n_lanes = n_codes / 4 + MAX_VECTOR_LANES;  // at 8 bits, where a lane has four codes
    const RowCodes row = {weights.bits,
                          n_blocks,
                          weights.block_size,
                          at_least(codes, n_codes + MAX_VECTOR_CODES),
                          at_least(scales, n_lanes),
                          at_least(offsets, n_lanes)};
    kernels.prepare_row(x, weights.n_inputs, row);
    std::size_t step = ROW_BYTES_AT_ONCE / row_bytes;
    step = step < 4 ? 4 : step / 4 * 4;
    parallel((weights.n_outputs + step - 1) / step, [&](std::size_t i) {
        const std::size_t first = i * step;
        const std::size_t n = std::min(step, weights.n_outputs - first);
        kernels.multiply_row(row, weights.codes + first * row_bytes, weights.scales + first * n_blocks, n, y + first);
        if (added.bias != nullptr)
            for (std::size_t j = first; j < first + n; ++j) y[j] += added.bias[j];
        if (added.residual != nullptr)
            for (std::size_t j = first; j < first + n; ++j) y[j] += added.residual[j];
    });
}

struct Codes {
    std::vector<std::int8_t> codes;
    std::vector<float> scales;
    std::vector<std::int32_t> offsets;
};

// Activations of all rows in codes, in panels.
class Activations {
public:
    Activations(const Kernels& kernels, std::size_t n_rows, const BlockWeights& weights, Codes& memory)
        : n_rows_(n_rows), panel_rows_(kernels.panel_rows), n_blocks_(weights.n_blocks()), block_size_(weights.block_size) {
        // A last panel of half the rows is half as wide: the others would be multiplied for nothing.
        const std::size_t rest = n_rows % panel_rows_;
        last_width_ = rest > 0 && rest <= kernels.lanes ? kernels.lanes : panel_rows_;
        const std::size_t n = n_panels() * panel_rows_ * n_blocks_;
        codes_ = at_least(memory.codes, n * block_size_);
        scales_ = at_least(memory.scales, n), offsets_ = at_least(memory.offsets, n);
    }

    void round(const Kernels& kernels, const float* x, std::size_t n_inputs, const Parallel& parallel) const {
        // Some panels are few, and shared badly by threads: so their inputs are divided.
        const std::size_t n_parts = std::min<std::size_t>(n_blocks_, n_panels() < 8 ? 4 : 1);
        parallel(n_panels() * n_parts, [&](std::size_t piece) {
            const std::size_t i = piece / n_parts, part = piece % n_parts, first = part * n_blocks_ / n_parts;
            const std::size_t n = (part + 1) * n_blocks_ / n_parts - first, begin = first * block_size_;
            kernels.quantize_panel(x + i * panel_rows_ * n_inputs + begin, n_inputs - begin, n_inputs, panel(i, first, n));
        });
    }

    std::size_t n_panels() const { return (n_rows_ + panel_rows_ - 1) / panel_rows_; }

    // Some blocks of a panel.
    Panel panel(std::size_t i, std::size_t first_block, std::size_t n_blocks) const {
        const std::size_t width = i + 1 == n_panels() ? last_width_ : panel_rows_;
        const std::size_t at = i * panel_rows_ * n_blocks_ + first_block * width;
        return {std::min(panel_rows_, n_rows_ - i * panel_rows_), width, n_blocks, block_size_, codes_ + at * block_size_,
                scales_ + at, offsets_ + at};
    }

private:
    std::size_t n_rows_, panel_rows_, n_blocks_, block_size_, last_width_;
    std::int8_t* codes_;
    float* scales_;
    std::int32_t* offsets_;
};

// Some blocks of some outputs: what is at work at a time.
struct Chunk {
    std::size_t first_output, n_outputs, first_block, n_blocks;
};

// What is multiplied in one piece of work: some outputs for some panels.
struct Piece {
    std::size_t first_output, last_output, first_panel, last_panel;
};

// A part of a chunk and the codes of a panel, to be asked for while others are at work.
Next make_next(const BlockWeights& weights, const Chunk& chunk, std::size_t part, std::size_t n_parts, const Panel& panel) {
    const std::size_t begin = part * chunk.n_outputs / n_parts, end = (part + 1) * chunk.n_outputs / n_parts;
    const std::size_t first = chunk.first_output + begin, n_blocks = weights.n_blocks();
    return {end - begin,
            chunk.n_blocks * weights.block_bytes(),
            weights.codes + first * weights.row_bytes() + chunk.first_block * weights.block_bytes(),
            weights.row_bytes(),
            weights.scales + first * n_blocks + chunk.first_block,
            n_blocks,
            panel.codes,
            panel.n_blocks * panel.block_size * panel.width};
}

// Rows this far apart fall on each other in a cache of 64 lines by some ways; those of a tile are more than the ways.
constexpr std::size_t BYTES_OF_WAY = 4096;

// Room for copies of the weights of a strip.
struct StripRoom {
    std::uint8_t* codes;  // (STRIP_OUTPUTS, WEIGHT_STRIDE)
    float* scales;        // [block][STRIP_OUTPUTS]
};

// The weights of a chunk, as they lie in the file if that serves, otherwise copied.
WeightStrip make_strip(const Kernels& kernels, const BlockWeights& weights, const Chunk& chunk, const StripRoom& room) {
    const std::size_t n_blocks = weights.n_blocks(), block_bytes = weights.block_bytes(), row_bytes = weights.row_bytes();
    const std::uint8_t* codes = weights.codes + chunk.first_output * row_bytes + chunk.first_block * block_bytes;
    const float* scales = weights.scales + chunk.first_output * n_blocks + chunk.first_block;
    for (std::size_t n = 0; n < chunk.n_outputs; ++n)
        for (std::size_t block = 0; block < chunk.n_blocks; ++block)
            room.scales[block * STRIP_OUTPUTS + n] = scales[n * n_blocks + block];
    if (weights.bits == 8 && kernels.takes_stored_weights && row_bytes % BYTES_OF_WAY != 0)
        return {chunk.n_outputs, codes, row_bytes, room.scales};
    const auto copy = weights.bits == 4 ? kernels.expand_weights : kernels.copy_weights;
    for (std::size_t n = 0; n < chunk.n_outputs; ++n)
        copy(codes + n * row_bytes, chunk.n_blocks * block_bytes, room.codes + n * WEIGHT_STRIDE);
    return {chunk.n_outputs, room.codes, WEIGHT_STRIDE, room.scales};
}

// The sums of a piece: finish(i, panel, sums) gets those of panel i, (outputs of the piece, width). `after` comes next.
template <typename Finish>
void multiply_piece(const Kernels& kernels, const BlockWeights& weights, const Activations& activations, const Piece& piece,
                    const Piece& after, const Finish& finish) {
    thread_local std::vector<std::uint8_t> codes;
    thread_local std::vector<float> scales, memory;
    const std::size_t blocks_at_once = STRIP_INPUTS / weights.block_size, n_panels = piece.last_panel - piece.first_panel;
    const std::size_t sums_of_panel = (piece.last_output - piece.first_output) * MAX_PANEL_ROWS;
    const StripRoom room = {at_least(codes, STRIP_OUTPUTS * WEIGHT_STRIDE), at_least(scales, blocks_at_once * STRIP_OUTPUTS)};
    float* all_sums = at_least(memory, n_panels * sums_of_panel);
    const auto chunk_at = [&](const Piece& of, std::size_t output, std::size_t block) -> Chunk {
        return {output, std::min(STRIP_OUTPUTS, of.last_output - output), block,
                std::min(blocks_at_once, weights.n_blocks() - block)};
    };
    for (std::size_t output = piece.first_output; output < piece.last_output; output += STRIP_OUTPUTS)
        for (std::size_t block = 0; block < weights.n_blocks(); block += blocks_at_once) {
            const Chunk chunk = chunk_at(piece, output, block);
            const bool is_last = block + chunk.n_blocks == weights.n_blocks();
            const bool ends = is_last && output + chunk.n_outputs == piece.last_output;
            const Chunk next = ends      ? chunk_at(after, after.first_output, 0)
                               : is_last ? chunk_at(piece, output + chunk.n_outputs, 0)
                                         : chunk_at(piece, output, block + chunk.n_blocks);
            const WeightStrip strip = make_strip(kernels, weights, chunk, room);
            for (std::size_t i = 0; i < n_panels; ++i) {
                const Panel panel = activations.panel(piece.first_panel + i, block, chunk.n_blocks);
                const Panel next_panel =
                    i + 1 < n_panels ? activations.panel(piece.first_panel + i + 1, block, chunk.n_blocks)
                                     : activations.panel(ends ? after.first_panel : piece.first_panel, next.first_block, next.n_blocks);
                float* sums = all_sums + i * sums_of_panel;
                kernels.multiply_panel(panel, strip, block == 0, sums + (output - piece.first_output) * panel.width,
                                       make_next(weights, next, i, n_panels, next_panel));
                if (ends) finish(piece.first_panel + i, panel, sums);
            }
        }
}

// Outputs in pieces of `size`, each for all rows, or for some panels of many: the sums of more would leave the cache.
constexpr std::size_t PANELS_AT_ONCE = 16;
template <typename Finish>
void multiply_all(const Kernels& kernels, const BlockWeights& weights, const Activations& activations, std::size_t size,
                  const Parallel& parallel, const Finish& finish) {
    const std::size_t n_panels = activations.n_panels(), n_groups = (n_panels + PANELS_AT_ONCE - 1) / PANELS_AT_ONCE;
    const std::size_t n_pieces = (weights.n_outputs + size - 1) / size * n_groups;
    const auto piece_at = [&](std::size_t i) -> Piece {
        const std::size_t first = i / n_groups * size, group = i % n_groups;
        return {first, std::min(first + size, weights.n_outputs), group * n_panels / n_groups, (group + 1) * n_panels / n_groups};
    };
    parallel(n_pieces, [&](std::size_t i) {
        const Piece piece = piece_at(i);
        multiply_piece(kernels, weights, activations, piece, piece_at(std::min(i + 1, n_pieces - 1)),
                       [&](std::size_t panel_index, const Panel& panel, float* sums) {
                           finish(panel_index, panel, sums, piece.first_output, piece.last_output - piece.first_output);
                       });
    });
}

void multiply_to(const Kernels& kernels, const BlockWeights& weights, const Activations& activations, const Added& added,
                 float* y, const Parallel& parallel) {
    const std::size_t N = weights.n_outputs;
    multiply_all(kernels, weights, activations, STRIP_OUTPUTS, parallel,
                 [&](std::size_t i, const Panel& panel, const float* sums, std::size_t first, std::size_t n) {
                     const std::size_t at = i * kernels.panel_rows * N + first;
                     kernels.turn_panel(sums, panel, n, added.bias != nullptr ? added.bias + first : nullptr,
                                        added.residual != nullptr ? added.residual + at : nullptr, y + at, N);
                 });
}

void mlp_of_one_row(const Kernels& kernels, const BlockMlp& layers, const float* x, const Added& added, float* y,
                    const Parallel& parallel) {
    thread_local std::vector<float> memory;
    float* hidden = at_least(memory, layers.first.n_outputs);
    multiply_one_row(kernels, layers.first, x, {}, hidden, parallel);
    kernels.activate_row(hidden, layers.first.n_outputs, layers.bias, layers.activation);
    multiply_one_row(kernels, layers.second, hidden, added, y, parallel);
}

}  // namespace

void linear(const Kernels& kernels, const BlockWeights& weights, const float* x, std::size_t n_rows, const Added& added,
            float* y, const Parallel& parallel) {
    if (n_rows == 0) return;
    if (n_rows == 1) return multiply_one_row(kernels, weights, x, added, y, parallel);
    thread_local Codes memory;
    const Activations activations(kernels, n_rows, weights, memory);
    activations.round(kernels, x, weights.n_inputs, parallel);
    multiply_to(kernels, weights, activations, added, y, parallel);
}

void mlp(const Kernels& kernels, const BlockMlp& layers, const float* x, std::size_t n_rows, const Added& added, float* y,
         const Parallel& parallel) {
    if (n_rows == 0) return;
    if (n_rows == 1) return mlp_of_one_row(kernels, layers, x, added, y, parallel);
    thread_local Codes memory, hidden_memory;
    const Activations inputs(kernels, n_rows, layers.first, memory), hidden(kernels, n_rows, layers.second, hidden_memory);
    inputs.round(kernels, x, layers.first.n_inputs, parallel);
    // Whole blocks of the second layer: both sizes are powers of 2.
    const std::size_t block_size = layers.second.block_size, size = std::max(STRIP_OUTPUTS, block_size);
    multiply_all(kernels, layers.first, inputs, size, parallel,
                 [&](std::size_t i, const Panel&, float* sums, std::size_t first, std::size_t n) {
                     kernels.activate_panel(sums, n, layers.bias != nullptr ? layers.bias + first : nullptr, layers.activation,
                                            hidden.panel(i, first / block_size, (n + block_size - 1) / block_size));
                 });
    multiply_to(kernels, layers.second, hidden, added, y, parallel);
}

}  // namespace aurora
