// Between two linear layers of an MLP: the activation, and its rounding for the second layer, while the sums of the first
// are in the cache. Included once per level, after panel_kernels.h.
//
// Sums stand as (outputs, width), a lane is a row. Quads of outputs are just what the next product reads, so nothing is
// ever turned: the codes are those that `quantize_panel` would make of the rows.
#pragma once

#include "../cpu/levels.h"

// x / 2 * (1 + tanh(u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3), which is x / (1 + exp(-2 u)).
struct Gelu {
    AURORA_MEMBER Floats operator()(Floats x) const {
        return x / (1.0f + exponential(x * (x * x * -0.0713548162726f - 1.59576912161f)));
    }
};
struct SquareOfPositive {
    AURORA_MEMBER Floats operator()(Floats x) const {
        const Floats positive = x < 0.0f ? Floats{} : x;  // NaN stays
        return positive * positive;
    }
};

// A sum that may wrap around: what stands for a NaN is no code.
typedef std::uint32_t Counts __attribute__((vector_size(VECTOR_BYTES)));

// Codes of four outputs, of which `n` there are, in the bytes of each lane. Where there is no number they do not matter.
AURORA_INLINE Ints quad_codes(const float* column, std::size_t n, std::size_t width, Floats inverse, Counts& total) {
    Ints bytes = {};
    AURORA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
        if (i >= n) continue;
        const Ints code = __builtin_convertvector(round_to_int(load(column + i * width) * inverse), Ints);
        total += (Counts)code;
        bytes |= (code & 0xff) << static_cast<int>(8 * i);
    }
    return bytes;
}

template <typename Function>
static void activate_panel_by(float* sums, std::size_t n_outputs, const float* bias, const Panel& panel, Function function) {
    const std::size_t width = panel.width, block_size = panel.block_size;
    for (std::size_t first = 0; first < width; first += LANES) {
        float* column = sums + first;
        for (std::size_t block = 0; block < panel.n_blocks; ++block) {
            const std::size_t begin = block * block_size, end = begin + block_size < n_outputs ? begin + block_size : n_outputs;
            Floats peak = {}, rest = {};
            for (std::size_t n = begin; n < end; ++n) {
                Floats value = load(column + n * width);
                if (bias != nullptr) value += bias[n];
                value = function(value);
                store(column + n * width, value);
                peak = larger(absolute(value), peak);
                rest += value * 0.0f;  // NaN from now on if it is not finite
            }
            peak += rest;
            const Floats inverse = peak >= 1e-30f ? 127.0f / peak : Floats{};  // as round_block does
            Counts total = {};
            std::size_t n = begin;
            const auto put = [&](Ints bytes) __attribute__((always_inline)) { store_ints(panel.codes + n * width + first * 4, bytes); };
            for (; n + 4 <= end; n += 4) put(quad_codes(column + n * width, 4, width, inverse, total));
            for (; n < begin + block_size; n += 4)
                put(n < end ? quad_codes(column + n * width, end - n, width, inverse, total) : Ints{});
            // Without a number, 0, or the NaN of what is not finite.
            store(panel.scales + block * width + first, peak >= 1e-30f ? peak / 127.0f : rest);
            store_ints(panel.offsets + block * width + first, (Ints)(total * (0u - OFFSET)));
        }
    }
}

static void activate_panel(float* sums, std::size_t n_outputs, const float* bias, Activation activation, const Panel& panel) {
    if (activation == Activation::GELU)
        activate_panel_by(sums, n_outputs, bias, panel, Gelu{});
    else
        activate_panel_by(sums, n_outputs, bias, panel, SquareOfPositive{});
}

template <typename Function>
AURORA_INLINE void activate_row_by(float* x, std::size_t n, const float* bias, Function function) {
    for (std::size_t i = 0; i < n; i += LANES) {
        const std::size_t n_bytes = (n - i < LANES ? n - i : LANES) * sizeof(float);
        Floats value = {}, added = {};
        std::memcpy(&value, x + i, n_bytes);
        if (bias != nullptr) std::memcpy(&added, bias + i, n_bytes);
        value = function(value + added);
        std::memcpy(x + i, &value, n_bytes);
    }
}

static void activate_row(float* x, std::size_t n, const float* bias, Activation activation) {
    if (activation == Activation::GELU)
        activate_row_by(x, n, bias, Gelu{});
    else
        activate_row_by(x, n, bias, SquareOfPositive{});
}
