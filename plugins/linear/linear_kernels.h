// Products of 8-bit activations and 8-bit weights by blocks. Included once per level, after cpu/simd.h.
//
// A product step (`dot4`) takes four weights and four activations in each lane. Sums of a block are exact in int32; at
// its end they become floats, times the two scales. The weights lie in the file as codes of 128 + weight, 0 to 255.
// A level whose dot4 wants signed weights says so by OFFSET = 0, and flips the highest bit, which subtracts 128.
#pragma once

#include "../cpu/levels.h"

constexpr std::size_t PANEL_COLUMNS = PANEL_VECTORS * LANES;
constexpr std::size_t MAX_BLOCK_SIZE = 256;

constexpr std::int32_t FLIP = static_cast<std::int32_t>(0x80808080);

AURORA_INLINE Ints weight_codes(const std::uint8_t* from) {
    const Ints codes = load_ints(from);
    return OFFSET ? codes : codes ^ FLIP;
}

// The largest magnitude of n floats; NaN if one of them is not finite.
AURORA_INLINE float peak_of(const float* x, std::size_t n) {
    Floats peak = {}, zero = {};
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Floats v = load(x + i);
        peak = larger(absolute(v), peak);
        zero += v * 0.0f;  // NaN from now on if v is not finite
    }
    float result = largest(peak), rest = sum(zero);
    for (; i < n; ++i) {
        const float magnitude = std::fabs(x[i]);
        result = magnitude > result ? magnitude : result;
        rest += x[i] * 0.0f;
    }
    return result + rest;
}

// codes = round(x * inverse), four to a lane, for `n` floats; returns their sum. Past n the codes are 0.
AURORA_INLINE std::int32_t encode(const float* x, std::size_t n, std::size_t block_size, float inverse,
                                  std::int8_t* codes) {
    std::size_t i = 0;
    Ints total = {};
    for (; i + LANES <= n; i += LANES) {
        const Ints rounded = __builtin_convertvector(round_to_int(load(x + i) * inverse), Ints);
        total += rounded;
        typedef std::int8_t Bytes __attribute__((vector_size(LANES)));
        const Bytes bytes = __builtin_convertvector(rounded, Bytes);
        std::memcpy(codes + i, &bytes, sizeof bytes);
    }
    std::int32_t result = sum(total);
    for (; i < n; ++i) {
        codes[i] = static_cast<std::int8_t>(std::nearbyint(x[i] * inverse));
        result += codes[i];
    }
    if (n < block_size) std::memset(codes + n, 0, block_size - n);
    return result;
}

// `offset`: what every weight's code is larger than the weight.
AURORA_INLINE void quantize_rows(const float* x, std::size_t n_inputs, std::size_t row_stride, const TileRows& rows,
                                 std::int32_t offset) {
    alignas(64) std::int8_t codes[MAX_BLOCK_SIZE];
    const std::size_t block_size = rows.block_size;
    for (std::size_t row = 0; row < rows.n_rows; ++row, x += row_stride) {
        for (std::size_t block = 0; block < rows.n_blocks; ++block) {
            const std::size_t begin = block * block_size;
            const std::size_t n = n_inputs - begin < block_size ? n_inputs - begin : block_size;
            const float peak = peak_of(x + begin, n);
            // Under the smallest normal number the inverse would not be finite. A NaN is kept in the scale alone.
            const bool is_number = peak >= 1e-30f;
            const float inverse = is_number ? 127.0f / peak : 0.0f;
            const bool is_finite = peak == peak;
            const std::int32_t total = is_finite ? encode(x + begin, n, block_size, inverse, codes) : 0;
            if (!is_finite) std::memset(codes, 0, block_size);
            const std::size_t at = block * rows.n_rows + row;
            rows.scales[at] = is_finite ? (is_number ? peak / 127.0f : 0.0f) : peak;
            rows.offsets[at] = -offset * total;
            std::int8_t* to = rows.codes + (begin * rows.n_rows) + row * 4;
            if (rows.n_rows == 1) {
                std::memcpy(to, codes, block_size);
            } else {
                for (std::size_t i = 0; i < block_size; i += 4, to += rows.n_rows * 4) std::memcpy(to, codes + i, 4);
            }
        }
    }
}

static void quantize(const float* x, std::size_t n_inputs, std::size_t row_stride, const TileRows& rows) {
    quantize_rows(x, n_inputs, row_stride, rows, OFFSET);
}

// LANES outputs by a vector of inputs, turned: quad by quad, all outputs side by side.
AURORA_INLINE void pack_square(const std::uint8_t* weights, std::size_t row_bytes, std::uint8_t* panel) {
    Ints rows[LANES];
    AURORA_UNROLL
    for (std::size_t column = 0; column < LANES; ++column) rows[column] = weight_codes(weights + column * row_bytes);
    transpose(rows);
    AURORA_UNROLL
    for (std::size_t quad = 0; quad < LANES; ++quad) store_ints(panel + quad * 4 * PANEL_COLUMNS, rows[quad]);
}

static void pack_panel(const std::uint8_t* weights, const float* weight_scales, std::size_t n_columns,
                       std::size_t n_blocks, std::size_t block_size, std::size_t row_bytes, std::size_t row_blocks,
                       std::uint8_t* panel, float* panel_scales) {
    const std::size_t n_bytes = n_blocks * block_size, whole = n_bytes / VECTOR_BYTES * VECTOR_BYTES;
    for (std::size_t column = 0; column < PANEL_COLUMNS; ++column)
        for (std::size_t block = 0; block < n_blocks; ++block)
            panel_scales[block * PANEL_COLUMNS + column] =
                column < n_columns ? weight_scales[column * row_blocks + block] : 0.0f;
    for (std::size_t first = 0; first < PANEL_COLUMNS; first += LANES) {
        const std::uint8_t* from = weights + first * row_bytes;
        std::size_t i = 0;
        if (first + LANES <= n_columns)
            for (; i < whole; i += VECTOR_BYTES) pack_square(from + i, row_bytes, panel + i * PANEL_COLUMNS + first * 4);
        for (; i < n_bytes; i += 4) {
            for (std::size_t column = 0; column < LANES; ++column) {
                std::int32_t quad = 0;
                if (first + column < n_columns) quad = load_quad(from + column * row_bytes + i) ^ (OFFSET ? 0 : FLIP);
                std::memcpy(panel + i * PANEL_COLUMNS + (first + column) * 4, &quad, 4);
            }
        }
    }
}

// R rows times a panel: R * PANEL_VECTORS sums stay in registers through a block.
template <std::size_t R>
static void multiply_tile_of(const TileRows& rows, const std::uint8_t* panel, const float* panel_scales,
                             std::size_t n_columns, bool is_first, float* y, std::size_t y_stride) {
    alignas(64) float totals[R][PANEL_COLUMNS] = {};
    const std::int8_t* codes = rows.codes;
    for (std::size_t block = 0; block < rows.n_blocks; ++block) {
        Ints sums[R][PANEL_VECTORS];
        AURORA_UNROLL
        for (std::size_t r = 0; r < R; ++r)
            AURORA_UNROLL
            for (std::size_t v = 0; v < PANEL_VECTORS; ++v)
                sums[r][v] = OFFSET ? splat_int(rows.offsets[block * R + r]) : Ints{};
        for (std::size_t i = 0; i < rows.block_size; i += 4, codes += 4 * R, panel += 4 * PANEL_COLUMNS) {
            Ints weights[PANEL_VECTORS];
            AURORA_UNROLL
            for (std::size_t v = 0; v < PANEL_VECTORS; ++v) weights[v] = load_ints(panel + v * VECTOR_BYTES);
            AURORA_UNROLL
            for (std::size_t r = 0; r < R; ++r) {
                const Ints activations = splat_int(load_quad(codes + 4 * r));
                AURORA_UNROLL
                for (std::size_t v = 0; v < PANEL_VECTORS; ++v) sums[r][v] = dot4(sums[r][v], weights[v], activations);
            }
        }
        AURORA_UNROLL
        for (std::size_t v = 0; v < PANEL_VECTORS; ++v) {
            const Floats weight_scale = load(panel_scales + block * PANEL_COLUMNS + v * LANES);
            AURORA_UNROLL
            for (std::size_t r = 0; r < R; ++r) {
                float* total = &totals[r][v * LANES];
                store(total, load(total) + to_floats(sums[r][v]) * (weight_scale * rows.scales[block * R + r]));
            }
        }
    }
    AURORA_UNROLL
    for (std::size_t r = 0; r < R; ++r, y += y_stride)
        for (std::size_t n = 0; n < n_columns; ++n) y[n] = is_first ? totals[r][n] : y[n] + totals[r][n];
}

template <std::size_t R>
AURORA_INLINE void multiply_tile_up_to(const TileRows& rows, const std::uint8_t* panel, const float* panel_scales,
                                       std::size_t n_columns, bool is_first, float* y, std::size_t y_stride) {
    if constexpr (R > 0) {
        if (rows.n_rows == R)
            multiply_tile_of<R>(rows, panel, panel_scales, n_columns, is_first, y, y_stride);
        else
            multiply_tile_up_to<R - 1>(rows, panel, panel_scales, n_columns, is_first, y, y_stride);
    }
}

static void multiply_tile(const TileRows& rows, const std::uint8_t* panel, const float* panel_scales,
                          std::size_t n_columns, bool is_first, float* y, std::size_t y_stride) {
    multiply_tile_up_to<TILE_ROWS>(rows, panel, panel_scales, n_columns, is_first, y, y_stride);
}
