// What merging does with rows of floats. Included once per level, after simd.h.
// No product may be joined with the sum that follows it where the function in a graph rounds between the two.
#pragma once

#include "../cpu/levels.h"

// The value as it is, rounded: compilers join no operation across this.
#if defined(__x86_64__)
#define AURORA_ROUNDED(value) asm("" : "+x"(value))
#elif defined(__aarch64__)
#define AURORA_ROUNDED(value) asm("" : "+w"(value))
#else
#define AURORA_ROUNDED(value)
#endif

// Rows and vectors of scores that are computed at a time: their sums, and what they read, are registers.
constexpr std::size_t SCORE_ROWS = REGISTERS == 32 ? 4 : 2, SCORE_VECTORS = 4;

// out = x / max(length of x, TINY_NORM)
static void normalise_row(const float* x, std::size_t n, float* out) {
    Floats squares = {};
    float square = 0;
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) squares += load(x + i) * load(x + i);
    for (; i < n; ++i) square += x[i] * x[i];
    const float norm = std::sqrt(sum(squares) + square), length = norm < TINY_NORM ? TINY_NORM : norm;
    for (i = 0; i + LANES <= n; i += LANES) store(out + i, load(x + i) / length);
    for (; i < n; ++i) out[i] = x[i] / length;
}

// The best score of each of N rows, and the first partner that has it.
template <std::size_t N>
static void best_of_rows(const float* rows, const Partners& all, float* best, std::int32_t* partner) {
    Floats top[N];
    Ints top_index[N];
    Ints lane;
    for (std::size_t i = 0; i < LANES; ++i) lane[i] = static_cast<std::int32_t>(i);
    for (std::size_t n = 0; n < N; ++n) top[n] = splat(-INFINITY), top_index[n] = Ints{};
    for (std::size_t first = 0; first < all.stride; first += SCORE_VECTORS * LANES) {
        Floats scores[N][SCORE_VECTORS] = {};
        for (std::size_t i = 0; i < all.n_inputs; ++i) {
            Floats inputs[SCORE_VECTORS];
            AURORA_UNROLL
            for (std::size_t v = 0; v < SCORE_VECTORS; ++v) inputs[v] = load(all.inputs + i * all.stride + first + v * LANES);
            AURORA_UNROLL
            for (std::size_t n = 0; n < N; ++n) {
                const float value = rows[n * all.n_inputs + i];
                AURORA_UNROLL
                for (std::size_t v = 0; v < SCORE_VECTORS; ++v) scores[n][v] += inputs[v] * value;
            }
        }
        for (std::size_t v = 0; v < SCORE_VECTORS; ++v) {
            const Ints index = lane + static_cast<std::int32_t>(first + v * LANES);
            const Ints exists = index < static_cast<std::int32_t>(all.n_partners);
            for (std::size_t n = 0; n < N; ++n) {
                const Ints is_better = exists & (scores[n][v] > top[n]);
                top[n] = is_better ? scores[n][v] : top[n];
                top_index[n] = is_better ? index : top_index[n];
            }
        }
    }
    for (std::size_t n = 0; n < N; ++n) {
        best[n] = top[n][0], partner[n] = top_index[n][0];
        for (std::size_t i = 1; i < LANES; ++i)
            if (top[n][i] > best[n] || (top[n][i] == best[n] && top_index[n][i] < partner[n]))
                best[n] = top[n][i], partner[n] = top_index[n][i];
    }
}

static void best_partners(const float* rows, std::size_t n_rows, const Partners& all, float* best, std::int32_t* partner) {
    std::size_t row = 0;
    for (; row + SCORE_ROWS <= n_rows; row += SCORE_ROWS)
        best_of_rows<SCORE_ROWS>(rows + row * all.n_inputs, all, best + row, partner + row);
    for (; row < n_rows; ++row) best_of_rows<1>(rows + row * all.n_inputs, all, best + row, partner + row);
}

// sums (+)= x * size
static void weigh_row(const float* x, float size, std::size_t n, bool is_first, float* sums) {
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Floats weighed = load(x + i) * size;
        AURORA_ROUNDED(weighed);
        store(sums + i, is_first ? weighed : load(sums + i) + weighed);
    }
    for (; i < n; ++i) {
        float weighed = x[i] * size;
        AURORA_ROUNDED(weighed);
        sums[i] = is_first ? weighed : sums[i] + weighed;
    }
}

// out = (x * size + out) / total, with out as 0 where nothing was weighed.
static void average_row(const float* x, float size, float total, std::size_t n, bool is_weighed, float* out) {
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        Floats weighed = load(x + i) * size;
        AURORA_ROUNDED(weighed);
        store(out + i, (is_weighed ? weighed + load(out + i) : weighed) / total);
    }
    for (; i < n; ++i) {
        float weighed = x[i] * size;
        AURORA_ROUNDED(weighed);
        out[i] = (is_weighed ? weighed + out[i] : weighed) / total;
    }
}
