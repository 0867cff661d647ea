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

// N outputs times V vectors of rows: N * V sums stay in registers through a block.
template <std::size_t N, std::size_t V>
static void multiply_panel_of(const Panel& panel, const WeightStrip& strip, std::size_t first_output, bool is_first, float* sums) {
    constexpr std::size_t WIDTH = V * LANES;
    const std::size_t n_blocks = panel.n_blocks, block_size = panel.block_size;
    const std::int8_t* codes = panel.codes;
    const float* scales = panel.scales;
    const std::int32_t* offsets = panel.offsets;
    const std::uint8_t* weights = strip.codes + first_output * WEIGHT_STRIDE;
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
        for (std::size_t i = 0; i < block_size; i += 4, codes += 4 * WIDTH, weights += 4) {
            Ints activations[V];
            AURORA_UNROLL
            for (std::size_t v = 0; v < V; ++v) activations[v] = load_ints(codes + v * VECTOR_BYTES);
            AURORA_UNROLL
            for (std::size_t n = 0; n < N; ++n) {
                const Ints weight = splat_int(load_quad(weights + n * WEIGHT_STRIDE));
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
AURORA_INLINE void multiply_some(const Panel& panel, const WeightStrip& strip, std::size_t& output, bool is_first, float* sums) {
    for (; output + N <= strip.n_outputs; output += N) {
        // 16 are two tiles of 8: one of 14 would leave two outputs, whose sums are too few to keep the products busy.
        if (N > 8 && strip.n_outputs - output == 16) return;
        float* to = sums + output * panel.width;
        if (panel.width == LANES)
            multiply_panel_of<N, 1>(panel, strip, output, is_first, to);
        else
            multiply_panel_of<N, PANEL_VECTORS>(panel, strip, output, is_first, to);
    }
}

static void multiply_panel(const Panel& panel, const WeightStrip& strip, bool is_first, float* sums) {
    std::size_t output = 0;
    multiply_some<TILE_OUTPUTS>(panel, strip, output, is_first, sums);
    if constexpr (TILE_OUTPUTS > 8) multiply_some<8>(panel, strip, output, is_first, sums);
    if constexpr (TILE_OUTPUTS > 4) multiply_some<4>(panel, strip, output, is_first, sums);
    multiply_some<2>(panel, strip, output, is_first, sums);
    multiply_some<1>(panel, strip, output, is_first, sums);
}

static void turn_panel(const float* sums, const Panel& panel, std::size_t n_outputs, float* y, std::size_t y_stride) {
    const std::size_t width = panel.width;
    for (std::size_t first = 0; first < panel.n_rows; first += LANES) {
        const std::size_t n_rows = panel.n_rows - first < LANES ? panel.n_rows - first : LANES;
        std::size_t n = 0;
        for (; n + LANES <= n_outputs; n += LANES) {
            Ints square[LANES];
            AURORA_UNROLL
            for (std::size_t i = 0; i < LANES; ++i) square[i] = load_ints(sums + (n + i) * width + first);
            transpose(square);
            if (n_rows == LANES) {
                AURORA_UNROLL
                for (std::size_t row = 0; row < LANES; ++row) store_ints(y + (first + row) * y_stride + n, square[row]);
            } else {
                for (std::size_t row = 0; row < n_rows; ++row) std::memcpy(y + (first + row) * y_stride + n, &square[row], VECTOR_BYTES);
            }
        }
        for (; n < n_outputs; ++n)
            for (std::size_t row = 0; row < n_rows; ++row) y[(first + row) * y_stride + n] = sums[n * width + first + row];
    }
}
