#include "attention_cpu.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace aurora {
namespace {

// Keys that share a scale when their values are added.
constexpr std::size_t KEYS_OF_BLOCK = 128;

// Tokens of one piece of work of the metric.
constexpr std::size_t TOKENS_AT_ONCE = 32;

std::size_t rounded_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

template <typename T>
T* at_least(std::vector<T>& memory, std::size_t n) {
    if (memory.size() < n) memory.resize(n);
    return memory.data();
}

// Rows of floats as weights of panels: strips of at most STRIP_OUTPUTS rows by STRIP_INPUTS inputs.
class Weights {
public:
    Weights(const Kernels& kernels, const float* x, std::size_t n_rows, std::size_t n_inputs, std::size_t block_size,
            std::vector<std::uint8_t>& codes, std::vector<float>& scales)
        : n_rows_(n_rows), n_inputs_(rounded_up(n_inputs, block_size)), block_size_(block_size),
          blocks_of_strip_(std::max<std::size_t>(1, STRIP_INPUTS / block_size)) {
        const std::size_t n_strips = n_groups() * n_parts();
        codes_ = at_least(codes, n_strips * STRIP_OUTPUTS * WEIGHT_STRIDE);
        scales_ = at_least(scales, n_strips * STRIP_OUTPUTS * blocks_of_strip_);
        for (std::size_t row = 0; row < n_rows; ++row)
            for (std::size_t block = 0; block * block_size < n_inputs; ++block) {
                const std::size_t at = row_of_strip(row / STRIP_OUTPUTS, block / blocks_of_strip_), output = row % STRIP_OUTPUTS;
                const std::size_t b = block % blocks_of_strip_, begin = block * block_size;
                scales_[at * blocks_of_strip_ + b * STRIP_OUTPUTS + output] =
                    kernels.round_to_weights(x + row * n_inputs + begin, std::min(block_size, n_inputs - begin), block_size,
                                             codes_ + (at + output) * WEIGHT_STRIDE + b * block_size);
            }
    }

    std::size_t n_groups() const { return (n_rows_ + STRIP_OUTPUTS - 1) / STRIP_OUTPUTS; }
    std::size_t n_parts() const { return (n_inputs_ / block_size_ + blocks_of_strip_ - 1) / blocks_of_strip_; }

    WeightStrip strip(std::size_t group, std::size_t part) const {
        const std::size_t at = row_of_strip(group, part);
        return {std::min(STRIP_OUTPUTS, n_rows_ - group * STRIP_OUTPUTS), codes_ + at * WEIGHT_STRIDE, WEIGHT_STRIDE,
                scales_ + at * blocks_of_strip_};
    }

    // sums (n_rows, width) = panel times all rows.
    void multiply(const Kernels& kernels, const Panel& panel, float* sums) const {
        for (std::size_t group = 0; group < n_groups(); ++group)
            for (std::size_t part = 0; part < n_parts(); ++part) {
                Panel some = panel;
                const std::size_t block = part * blocks_of_strip_;
                some.n_blocks = std::min(blocks_of_strip_, panel.n_blocks - block);
                some.codes += block * block_size_ * panel.width;
                some.scales += block * panel.width;
                some.offsets += block * panel.width;
                kernels.multiply_panel(some, strip(group, part), part == 0, sums + group * STRIP_OUTPUTS * panel.width, {});
            }
    }

private:
    std::size_t row_of_strip(std::size_t group, std::size_t part) const { return (group * n_parts() + part) * STRIP_OUTPUTS; }

    std::size_t n_rows_, n_inputs_, block_size_, blocks_of_strip_;
    std::uint8_t* codes_;
    float* scales_;
};

// Memory of one thread, kept from one call to the next.
struct Memory {
    std::vector<float> rows, turned, scores, sums, key_scales, value_scales, panel_scales;
    std::vector<std::uint8_t> key_codes, value_codes;
    std::vector<std::int8_t> panel_codes;
    std::vector<std::int32_t> panel_offsets;
};

Panel make_panel(Memory& memory, std::size_t n_rows, std::size_t width, std::size_t n_inputs, std::size_t block_size) {
    const std::size_t n_blocks = (n_inputs + block_size - 1) / block_size, n = n_blocks * width;
    return {n_rows, width, n_blocks, block_size, at_least(memory.panel_codes, n * block_size),
            at_least(memory.panel_scales, n), at_least(memory.panel_offsets, n)};
}

void attend_head(const Kernels& kernels, const HeadsAttention& all, std::size_t frame, std::size_t head) {
    thread_local Memory memory;
    const std::size_t T = all.n_tokens, N = all.head_size, D = all.n_heads * N, at = frame * T * D + head * N;
    // Rows of one head, close together, bias added; they are turned by whole vectors, of which the last may end past them.
    float* rows = at_least(memory.rows, T * N + MAX_VECTOR_LANES);
    const auto gather = [&](const float* x, const float* bias, float scale) {
        for (std::size_t t = 0; t < T; ++t) kernels.add_and_scale(x + at + t * D, bias + head * N, scale, N, rows + t * N);
    };
    const std::size_t block_size = rounded_up(N, 4);
    gather(all.key, all.key_bias, 1);
    const Weights keys(kernels, rows, T, N, block_size, memory.key_codes, memory.key_scales);
    gather(all.value, all.value_bias, 1);
    float* turned = at_least(memory.turned, T * N);
    kernels.turn_panel(rows, {N, N, 0, 0, nullptr, nullptr, nullptr}, T, nullptr, nullptr, turned, T);
    const Weights values(kernels, turned, N, T, KEYS_OF_BLOCK, memory.value_codes, memory.value_scales);
    gather(all.query, all.query_bias, all.scale);
    float* scores = at_least(memory.scores, T * kernels.panel_rows);
    float* sums = at_least(memory.sums, N * kernels.panel_rows);
    for (std::size_t first = 0; first < T; first += kernels.panel_rows) {
        const std::size_t n_rows = std::min(kernels.panel_rows, T - first);
        const std::size_t width = n_rows <= kernels.lanes ? kernels.lanes : kernels.panel_rows;
        const Panel queries = make_panel(memory, n_rows, width, N, block_size);
        kernels.quantize_panel(rows + first * N, N, N, queries);
        keys.multiply(kernels, queries, scores);
        const Panel shares = make_panel(memory, n_rows, width, T, KEYS_OF_BLOCK);
        kernels.softmax_panel(scores, T, shares);
        values.multiply(kernels, shares, sums);
        kernels.turn_panel(sums, shares, N, nullptr, nullptr, all.mixed + at + first * D, D);
    }
}

}  // namespace

void heads_attention(const Kernels& kernels, const HeadsAttention& all, const Parallel& parallel) {
    const std::size_t T = all.n_tokens, D = all.n_heads * all.head_size, n_tokens = all.n_frames * T;
    parallel((n_tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE, [&](std::size_t i) {
        for (std::size_t t = i * TOKENS_AT_ONCE; t < std::min((i + 1) * TOKENS_AT_ONCE, n_tokens); ++t)
            kernels.mean_of_heads(all.key + t * D, all.key_bias, all.n_heads, all.head_size, all.metric + t * all.head_size);
    });
    parallel(all.n_frames * all.n_heads,
             [&](std::size_t i) { attend_head(kernels, all, i / all.n_heads, i % all.n_heads); });
}

}  // namespace aurora
