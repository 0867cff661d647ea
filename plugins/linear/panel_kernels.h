// Products of many rows of 8-bit activations and 8-bit weights by blocks. Included once per level, after linear_kernels.h.
//
// Weights are read as they lie, four at a time and for all lanes; a lane is a row of activations. So it is the activations
// that are brought into an order, once for a layer, and never the weights, of which there are more.
#pragma once

#include "../cpu/levels.h"

constexpr std::size_t PANEL_ROWS = PANEL_VECTORS * LANES;

// Codes of LANES rows and one block, (LANES, MAX_BLOCK_SIZE), to quads: [quad][row][4], `width` rows to a quad.
AURORA_INLINE void order_codes(const std::int8_t* codes, std::size_t block_size, std::size_t width, std::int8_t* to) {
    std::size_t i = 0;
    for (; i + VECTOR_BYTES <= block_size; i += VECTOR_BYTES) {
        Ints rows[LANES];
        AURORA_UNROLL
        for (std::size_t row = 0; row < LANES; ++row) rows[row] = load_ints(codes + row * MAX_BLOCK_SIZE + i);
        transpose(rows);
        AURORA_UNROLL
        for (std::size_t quad = 0; quad < LANES; ++quad) store_ints(to + (i + quad * 4) * width, rows[quad]);
    }
    for (; i < block_size; i += 4)
        for (std::size_t row = 0; row < LANES; ++row) std::memcpy(to + i * width + row * 4, codes + row * MAX_BLOCK_SIZE + i, 4);
}

static void quantize_panel(const float* x, std::size_t n_inputs, std::size_t row_stride, const Panel& panel) {
    alignas(64) std::int8_t codes[LANES * MAX_BLOCK_SIZE];
    const std::size_t block_size = panel.block_size, width = panel.width;
    for (std::size_t block = 0; block < panel.n_blocks; ++block) {
        const std::size_t begin = block * block_size;
        const std::size_t n = n_inputs - begin < block_size ? n_inputs - begin : block_size;
        for (std::size_t first = 0; first < width; first += LANES) {
            for (std::size_t row = 0; row < LANES; ++row) {
                const std::size_t at = block * width + first + row;
                std::int8_t* to = codes + row * MAX_BLOCK_SIZE;
                if (first + row < panel.n_rows) {
                    const float* from = x + (first + row) * row_stride + begin;
                    if (begin + 2 * block_size <= n_inputs)  // the rows take turns: no prefetcher follows them
                        for (std::size_t i = 0; i < block_size; i += 16) __builtin_prefetch(from + block_size + i);
                    const Rounded rounded = round_block(from, n, block_size, to);
                    panel.scales[at] = rounded.scale;
                    panel.offsets[at] = rounded.offset;
                } else {
                    std::memset(to, 0, block_size);
                    panel.scales[at] = 0;
                    panel.offsets[at] = 0;
                }
            }
            order_codes(codes, block_size, width, panel.codes + begin * width + first * 4);
        }
    }
}

static void copy_weights(const std::uint8_t* from, std::size_t n_bytes, std::uint8_t* to) {
    if (OFFSET) {
        std::memcpy(to, from, n_bytes);
        return;
    }
    for (std::size_t i = 0; i < n_bytes; ++i) to[i] = from[i] ^ 0x80;
}

// What comes next, line by line of the cache, spread over the products of a panel. All at once it would fill what the
// machine has for reads that are under way, and the products would wait for them. It is asked for into the first level:
// hints for the second one did nothing on the machine where this was measured.
constexpr std::size_t INPUTS_OF_STEP = 32;
class Ahead {
public:
    // `n_steps`: how often `step` will be called, at least.
    Ahead(const Next& next, std::size_t n_steps)
        : next_(next), n_lines_(next.n_rows * lines_of(next.n_bytes)), n_panel_lines_(lines_of(next.panel_bytes)), n_steps_(n_steps) {}

    AURORA_MEMBER void step() {
        for (credit_ += n_lines_; credit_ >= n_steps_ && row_ < next_.n_rows; credit_ -= n_steps_) {
            if (at_ == 0) __builtin_prefetch(next_.scales + row_ * next_.scale_stride);
            __builtin_prefetch(next_.codes + row_ * next_.code_stride + at_);
            at_ += LINE;
            if (at_ >= next_.n_bytes) at_ = 0, ++row_;
        }
        for (panel_credit_ += n_panel_lines_; panel_credit_ >= n_steps_ && panel_at_ < next_.panel_bytes; panel_credit_ -= n_steps_) {
            __builtin_prefetch(next_.panel + panel_at_);
            panel_at_ += LINE;
        }
    }

private:
    static constexpr std::size_t LINE = 64;
    static std::size_t lines_of(std::size_t n_bytes) { return (n_bytes + LINE - 1) / LINE; }
    const Next& next_;
    const std::size_t n_lines_, n_panel_lines_, n_steps_;
    std::size_t credit_ = 0, row_ = 0, at_ = 0, panel_credit_ = 0, panel_at_ = 0;
};

// N outputs times V vectors of rows: N * V sums stay in registers through a block.
template <std::size_t N, std::size_t V>
static void multiply_panel_of(const Panel& panel, const WeightStrip& strip, std::size_t first_output, bool is_first, float* sums,
                              Ahead& ahead) {
    constexpr std::size_t WIDTH = V * LANES, HALF = (N + 1) / 2;
    const std::size_t n_blocks = panel.n_blocks, block_size = panel.block_size, stride = strip.code_stride;
    const std::int8_t* codes = panel.codes;
    const float* scales = panel.scales;
    const std::int32_t* offsets = panel.offsets;
    // Two walks, so that all rows are few multiples of the stride away, for which there are registers.
    const std::uint8_t* weights[] = {strip.codes + first_output * stride, strip.codes + (first_output + HALF) * stride};
    const float* weight_scales = strip.scales + first_output;
    if (is_first) std::memset(sums, 0, N * WIDTH * sizeof(float));
    for (std::size_t block = 0; block < n_blocks; ++block) {
        // Without this GCC keeps the sums of a block for the next one, in memory of its own, and writes them twice.
        asm volatile("" ::: "memory");
        Ints products[N][V];
        AURORA_UNROLL
        for (std::size_t n = 0; n < N; ++n)
            AURORA_UNROLL
            for (std::size_t v = 0; v < V; ++v) products[n][v] = Ints{};
        for (std::size_t i = 0; i < block_size; i += 4, codes += 4 * WIDTH, weights[0] += 4, weights[1] += 4) {
            if (i % INPUTS_OF_STEP == 0) ahead.step();
            Ints activations[V];
            AURORA_UNROLL
            for (std::size_t v = 0; v < V; ++v) activations[v] = load_ints(codes + v * VECTOR_BYTES);
            AURORA_UNROLL
            for (std::size_t n = 0; n < N; ++n) {
                const Ints weight = splat_int(load_quad(weights[n / HALF] + n % HALF * stride));
                AURORA_UNROLL
                for (std::size_t v = 0; v < V; ++v) products[n][v] = dot4(products[n][v], weight, activations[v]);
            }
        }
        AURORA_UNROLL
        for (std::size_t v = 0; v < V; ++v) {
            const Floats scale = load(scales + block * WIDTH + v * LANES);
            const Ints offset = load_ints(offsets + block * WIDTH + v * LANES);
            AURORA_UNROLL
            for (std::size_t n = 0; n < N; ++n) {
                float* sum = sums + n * WIDTH + v * LANES;
                store(sum, load(sum) + to_floats(products[n][v] + offset) * (scale * weight_scales[block * STRIP_OUTPUTS + n]));
            }
        }
    }
}

// As many outputs as are left, the largest tile first.
template <std::size_t N>
AURORA_INLINE void multiply_some(const Panel& panel, const WeightStrip& strip, std::size_t& output, bool is_first, float* sums,
                                 Ahead& ahead) {
    for (; output + N <= strip.n_outputs; output += N) {
        // 16 are two tiles of 8: one of 14 would leave two outputs, whose sums are too few to keep the products busy.
        if (N > 8 && strip.n_outputs - output == 16) return;
        float* to = sums + output * panel.width;
        if (panel.width == LANES)
            multiply_panel_of<N, 1>(panel, strip, output, is_first, to, ahead);
        else
            multiply_panel_of<N, PANEL_VECTORS>(panel, strip, output, is_first, to, ahead);
    }
}

static void multiply_panel(const Panel& panel, const WeightStrip& strip, bool is_first, float* sums, const Next& next) {
    std::size_t output = 0;
    const std::size_t steps_of_tile = panel.n_blocks * ((panel.block_size + INPUTS_OF_STEP - 1) / INPUTS_OF_STEP);
    Ahead ahead(next, (strip.n_outputs + TILE_OUTPUTS - 1) / TILE_OUTPUTS * steps_of_tile);
    multiply_some<TILE_OUTPUTS>(panel, strip, output, is_first, sums, ahead);
    if constexpr (TILE_OUTPUTS > 8) multiply_some<8>(panel, strip, output, is_first, sums, ahead);
    if constexpr (TILE_OUTPUTS > 4) multiply_some<4>(panel, strip, output, is_first, sums, ahead);
    multiply_some<2>(panel, strip, output, is_first, sums, ahead);
    multiply_some<1>(panel, strip, output, is_first, sums, ahead);
}

// y (n_rows, n_outputs) = the turned sums, plus bias, plus residual.
static void turn_panel(const float* sums, const Panel& panel, std::size_t n_outputs, const float* bias, const float* residual,
                       float* y, std::size_t y_stride) {
    const std::size_t width = panel.width;
    for (std::size_t first = 0; first < panel.n_rows; first += LANES) {
        const std::size_t n_rows = panel.n_rows - first < LANES ? panel.n_rows - first : LANES;
        std::size_t n = 0;
        for (; n + LANES <= n_outputs; n += LANES) {
            Ints square[LANES];
            AURORA_UNROLL
            for (std::size_t i = 0; i < LANES; ++i) square[i] = load_ints(sums + (n + i) * width + first);
            transpose(square);
            const Floats added = bias != nullptr ? load(bias + n) : Floats{};
            const auto finish = [&](std::size_t row) __attribute__((always_inline)) {
                const std::size_t at = (first + row) * y_stride + n;
                Floats value = as_floats(square[row]);
                if (bias != nullptr) value += added;
                if (residual != nullptr) value += load(residual + at);
                store(y + at, value);
            };
            if (n_rows == LANES) {
                AURORA_UNROLL
                for (std::size_t row = 0; row < LANES; ++row) finish(row);
            } else {
                for (std::size_t row = 0; row < n_rows; ++row) finish(row);
            }
        }
        for (; n < n_outputs; ++n)
            for (std::size_t row = 0; row < n_rows; ++row) {
                const std::size_t at = (first + row) * y_stride + n;
                float value = sums[n * width + first + row];
                if (bias != nullptr) value += bias[n];
                if (residual != nullptr) value += residual[at];
                y[at] = value;
            }
    }
}
