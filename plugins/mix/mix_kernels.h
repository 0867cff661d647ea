// What stands between the linear layers of an RWKV-6 block, row by row. Included once per level, after cpu/simd.h.
// A row is what one token has: `n` floats, any number of them.
#pragma once

#include "../cpu/levels.h"

// The whole vectors of a row; what is left over is up to who uses it.
#define AURORA_FOR_VECTORS(i, n) for (; i + LANES <= n; i += LANES)

// z = (x - mean) / sqrt(variance + epsilon) * weight + bias; with `update`, x + update is what is normed, and kept in `kept`.
static void norm_row(const float* x, const float* update, std::size_t n, const float* weight, const float* bias,
                     float epsilon, float* kept, float* z) {
    if (update != nullptr) {
        std::size_t i = 0;
        AURORA_FOR_VECTORS(i, n) store(kept + i, load(x + i) + load(update + i));
        for (; i < n; ++i) kept[i] = x[i] + update[i];
        x = kept;
    }
    Floats sums = {}, squares = {};
    float total = 0, square = 0;
    std::size_t i = 0;
    AURORA_FOR_VECTORS(i, n) sums += load(x + i);
    for (; i < n; ++i) total += x[i];
    const float mean = (total + sum(sums)) / static_cast<float>(n);
    i = 0;
    AURORA_FOR_VECTORS(i, n) {
        const Floats centred = load(x + i) - mean;
        squares += centred * centred;
    }
    for (; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt((square + sum(squares)) / static_cast<float>(n) + epsilon);
    i = 0;
    AURORA_FOR_VECTORS(i, n) {
        Floats value = (load(x + i) - mean) * scale;
        if (weight != nullptr) value = value * load(weight + i) + load(bias + i);
        store(z + i, value);
    }
    for (; i < n; ++i) {
        z[i] = (x[i] - mean) * scale;
        if (weight != nullptr) z[i] = z[i] * weight[i] + bias[i];
    }
}

// out = z + (previous - z) * (mix + extra), without `extra` if it is null.
static void mix_row(const float* z, const float* previous, const float* mix, const float* extra, std::size_t n, float* out) {
    std::size_t i = 0;
    AURORA_FOR_VECTORS(i, n) {
        Floats share = load(mix + i);
        if (extra != nullptr) share += load(extra + i);
        const Floats here = load(z + i);
        store(out + i, here + (load(previous + i) - here) * share);
    }
    for (; i < n; ++i) out[i] = z[i] + (previous[i] - z[i]) * (mix[i] + (extra != nullptr ? extra[i] : 0.0f));
}

// Applies a function of vectors to rows: what is left over goes through a vector that is filled up with zeros.
template <typename Function>
AURORA_INLINE void map_row(std::size_t n, float* out, const float* a, const float* b, const float* c, Function function) {
    std::size_t i = 0;
    AURORA_FOR_VECTORS(i, n)
    store(out + i, function(load(a + i), b != nullptr ? load(b + i) : Floats{}, c != nullptr ? load(c + i) : Floats{}));
    if (i == n) return;
    float rest[3][LANES] = {};
    const std::size_t n_bytes = (n - i) * sizeof(float);
    std::memcpy(rest[0], a + i, n_bytes);
    if (b != nullptr) std::memcpy(rest[1], b + i, n_bytes);
    if (c != nullptr) std::memcpy(rest[2], c + i, n_bytes);
    store(rest[0], function(load(rest[0]), load(rest[1]), load(rest[2])));
    std::memcpy(out + i, rest[0], n_bytes);
}

struct Tanh {
    AURORA_MEMBER Floats operator()(Floats a, Floats, Floats) const { return tangent_hyperbolic(a); }
};
struct Decay {
    AURORA_MEMBER Floats operator()(Floats a, Floats b, Floats) const { return -exponential(a + b); }
};
struct SquaredRelu {
    AURORA_MEMBER Floats operator()(Floats a, Floats, Floats) const {
        const Floats positive = a < 0.0f ? Floats{} : a;  // NaN stays
        return positive * positive;
    }
};
struct SiluGate {
    AURORA_MEMBER Floats operator()(Floats a, Floats b, Floats) const { return a * (b * sigmoid(b)); }
};
struct SigmoidGate {
    AURORA_MEMBER Floats operator()(Floats a, Floats b, Floats c) const { return a + sigmoid(b) * c; }
};

static void tanh_row(float* x, std::size_t n) { map_row(n, x, x, nullptr, nullptr, Tanh{}); }

// log_decay = -exp(base + extra)
static void decay_row(const float* base, const float* extra, std::size_t n, float* log_decay) {
    map_row(n, log_decay, base, extra, nullptr, Decay{});
}

static void squared_relu(const float* x, std::size_t n, float* y) { map_row(n, y, x, nullptr, nullptr, SquaredRelu{}); }

// y = x + sigmoid(receptance) * value
static void sigmoid_gate(const float* x, const float* receptance, const float* value, std::size_t n, float* y) {
    map_row(n, y, x, receptance, value, SigmoidGate{});
}

// out = (norm of each head) * weight + bias, times silu(gate)
static void head_norm_gate_row(const float* y, const float* gate, const float* weight, const float* bias,
                               std::size_t n_heads, std::size_t head_size, float epsilon, float* out) {
    for (std::size_t head = 0; head < n_heads; ++head) {
        const std::size_t at = head * head_size;
        norm_row(y + at, nullptr, head_size, weight + at, bias + at, epsilon, nullptr, out + at);
    }
    map_row(n_heads * head_size, out, out, gate, nullptr, SiluGate{});
}

constexpr std::size_t FLOAT_ROWS = 6, FLOAT_VECTORS = REGISTERS == 32 ? 4 : 2;

AURORA_INLINE Floats load_weights(const float* from) { return load(from); }
AURORA_INLINE Floats load_weights(const std::int8_t* from) {
    return to_floats(widen(from));  // by the level: GCC 12 makes a loop of a conversion from 8 bits to 32
}

// What is done with the sums of some inputs: begun, or added to those in y; scaled, if they are whole and have scales.
struct SumsOf {
    bool is_first;
    const float* scales;  // of the tile's columns, or null
};

// R rows times V vectors of columns; sums in registers over all inputs.
template <std::size_t R, std::size_t V, typename Weight>
AURORA_INLINE void float_tile(const float* x, std::size_t x_stride, const Weight* weights, std::size_t weight_stride,
                              std::size_t n_inputs, const SumsOf& of, float* y, std::size_t y_stride) {
    Floats sums[R][V];
    AURORA_UNROLL
    for (std::size_t r = 0; r < R; ++r) {
        AURORA_UNROLL
        for (std::size_t v = 0; v < V; ++v) sums[r][v] = of.is_first ? Floats{} : load(y + r * y_stride + v * LANES);
    }
    for (std::size_t k = 0; k < n_inputs; ++k, weights += weight_stride) {
        Floats w[V];
        AURORA_UNROLL
        for (std::size_t v = 0; v < V; ++v) w[v] = load_weights(weights + v * LANES);
        AURORA_UNROLL
        for (std::size_t r = 0; r < R; ++r) {
            const Floats value = splat(x[r * x_stride + k]);
            AURORA_UNROLL
            for (std::size_t v = 0; v < V; ++v) sums[r][v] += value * w[v];
        }
    }
    AURORA_UNROLL
    for (std::size_t v = 0; v < V; ++v) {
        const Floats scale = of.scales != nullptr ? load(of.scales + v * LANES) : splat(1.0f);
        AURORA_UNROLL
        for (std::size_t r = 0; r < R; ++r) store(y + r * y_stride + v * LANES, sums[r][v] * scale);
    }
}

template <std::size_t V, typename Weight>
AURORA_INLINE void float_tile_rows(std::size_t n_rows, const float* x, std::size_t x_stride, const Weight* weights,
                                   std::size_t weight_stride, std::size_t n_inputs, const SumsOf& of, float* y,
                                   std::size_t y_stride) {
    switch (n_rows) {
        case 1: return float_tile<1, V>(x, x_stride, weights, weight_stride, n_inputs, of, y, y_stride);
        case 2: return float_tile<2, V>(x, x_stride, weights, weight_stride, n_inputs, of, y, y_stride);
        case 3: return float_tile<3, V>(x, x_stride, weights, weight_stride, n_inputs, of, y, y_stride);
        case 4: return float_tile<4, V>(x, x_stride, weights, weight_stride, n_inputs, of, y, y_stride);
        case 5: return float_tile<5, V>(x, x_stride, weights, weight_stride, n_inputs, of, y, y_stride);
        default: return float_tile<FLOAT_ROWS, V>(x, x_stride, weights, weight_stride, n_inputs, of, y, y_stride);
    }
}

// All rows, some at a time, times V vectors of columns.
template <std::size_t V, typename Weight>
static void multiply_columns(const float* x, std::size_t x_stride, std::size_t n_rows, const Weight* weights,
                             std::size_t weight_stride, std::size_t n_inputs, const SumsOf& of, float* y,
                             std::size_t y_stride) {
    for (std::size_t r = 0; r < n_rows; r += FLOAT_ROWS) {
        const std::size_t n = n_rows - r < FLOAT_ROWS ? n_rows - r : FLOAT_ROWS;
        float_tile_rows<V>(n, x + r * x_stride, x_stride, weights, weight_stride, n_inputs, of, y + r * y_stride, y_stride);
    }
}

template <std::size_t V>
struct Vectors {
    static constexpr std::size_t N = V;
};

constexpr std::size_t FLOAT_INPUTS = 256, MANY_FLOAT_ROWS = 3 * FLOAT_ROWS;

// Integers for many rows become floats once, close together: fewer rows do not pay for it. The products are the same.
template <std::size_t V>
static void multiply_columns(const float* x, std::size_t x_stride, std::size_t n_rows, const std::int8_t* codes,
                             std::size_t code_stride, std::size_t n_inputs, const SumsOf& of, float* y,
                             std::size_t y_stride) {
    if (n_rows <= MANY_FLOAT_ROWS)
        return multiply_columns<V, std::int8_t>(x, x_stride, n_rows, codes, code_stride, n_inputs, of, y, y_stride);
    alignas(64) float weights[FLOAT_INPUTS * V * LANES];
    for (std::size_t k = 0; k < n_inputs; ++k) {
        AURORA_UNROLL
        for (std::size_t v = 0; v < V; ++v)
            store(weights + (k * V + v) * LANES, load_weights(codes + k * code_stride + v * LANES));
    }
    multiply_columns<V, float>(x, x_stride, n_rows, weights, V * LANES, n_inputs, of, y, y_stride);
}

// y (n_rows, n_outputs) = x (n_rows, n_inputs) times weights (n_inputs, n_outputs), each with its distance of rows, times
// a scale for each output, unless `scales` is null.
template <typename Weight>
AURORA_INLINE void multiply_weights(const float* x, std::size_t x_stride, std::size_t n_rows, const Weight* weights,
                                    const float* scales, std::size_t weight_stride, std::size_t n_inputs,
                                    std::size_t n_outputs, float* y, std::size_t y_stride) {
    if (n_inputs == 0)
        for (std::size_t r = 0; r < n_rows; ++r) std::memset(y + r * y_stride, 0, n_outputs * sizeof(float));
    for (std::size_t k = 0; k < n_inputs; k += FLOAT_INPUTS) {
        const std::size_t n_some = n_inputs - k < FLOAT_INPUTS ? n_inputs - k : FLOAT_INPUTS;
        const Weight* some = weights + k * weight_stride;
        const float* scales_now = k + n_some == n_inputs ? scales : nullptr;
        std::size_t column = 0;
        const auto next = [&](auto width) __attribute__((always_inline)) {
            constexpr std::size_t V = decltype(width)::N;
            const SumsOf of = {k == 0, scales_now != nullptr ? scales_now + column : nullptr};
            multiply_columns<V>(x + k, x_stride, n_rows, some + column, weight_stride, n_some, of, y + column, y_stride);
            column += V * LANES;
        };
        while (column + FLOAT_VECTORS * LANES <= n_outputs) next(Vectors<FLOAT_VECTORS>{});
        if constexpr (FLOAT_VECTORS > 2)
            if (column + 2 * LANES <= n_outputs) next(Vectors<2>{});
        while (column + LANES <= n_outputs) next(Vectors<1>{});
        for (; column < n_outputs; ++column)
            for (std::size_t r = 0; r < n_rows; ++r) {
                float total = k == 0 ? 0.0f : y[r * y_stride + column];
                for (std::size_t i = 0; i < n_some; ++i)
                    total += x[r * x_stride + k + i] * static_cast<float>(some[i * weight_stride + column]);
                y[r * y_stride + column] = scales_now != nullptr ? total * scales_now[column] : total;
            }
    }
}

static void multiply_floats(const float* x, std::size_t x_stride, std::size_t n_rows, const float* weights,
                            std::size_t weight_stride, std::size_t n_inputs, std::size_t n_outputs, float* y,
                            std::size_t y_stride) {
    multiply_weights(x, x_stride, n_rows, weights, nullptr, weight_stride, n_inputs, n_outputs, y, y_stride);
}

// The same with integers for weights, and a scale for each output.
static void multiply_codes(const float* x, std::size_t x_stride, std::size_t n_rows, const std::int8_t* codes,
                           const float* scales, std::size_t code_stride, std::size_t n_inputs, std::size_t n_outputs,
                           float* y, std::size_t y_stride) {
    multiply_weights(x, x_stride, n_rows, codes, scales, code_stride, n_inputs, n_outputs, y, y_stride);
}
