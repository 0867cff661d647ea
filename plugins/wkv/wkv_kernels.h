// The recurrences of reference.py for one head. Included once per level, after cpu/simd.h.
//
// A head's state is read and written once per token, and nothing else is large: a head of 64 x 64 stays in the first
// level of the cache. The columns of a state do not depend on each other, so a strip of them is taken at a time, as many
// as leave all sums of a token in registers.
#pragma once

#include "../cpu/levels.h"

constexpr std::size_t STRIP_VECTORS = 4;
constexpr std::size_t STRIP = STRIP_VECTORS * LANES;
constexpr std::size_t MAX_HEAD_SIZE = 256;

// exp(log_decay) of one token; `decay` holds whole vectors.
AURORA_INLINE void exponentials(const float* log_decay, std::size_t size, float* decay) {
    std::size_t i = 0;
    for (; i + LANES <= size; i += LANES) store(decay + i, exponential(load(log_decay + i)));
    if (i < size) {
        float rest[LANES] = {};
        std::memcpy(rest, log_decay + i, (size - i) * sizeof(float));
        store(decay + i, exponential(load(rest)));
    }
}

// Ask for what a token some way on reads and writes: it lies a whole row of all heads away, where no prefetcher of the
// hardware follows.
constexpr std::size_t TOKENS_AHEAD = 4;
AURORA_INLINE void prefetch_token(const WkvHead& head, std::size_t t) {
    constexpr std::size_t LINE = 64 / sizeof(float);
    if (t + TOKENS_AHEAD >= head.n_tokens) return;
    const std::size_t first = (t + TOKENS_AHEAD) * head.row_stride;
    for (std::size_t i = first; i < first + head.size; i += LINE) {
        __builtin_prefetch(head.receptance + i);
        __builtin_prefetch(head.key + i);
        __builtin_prefetch(head.value + i);
        __builtin_prefetch(head.log_decay + i);
        __builtin_prefetch(head.output + i, 1);
    }
}

// sum of r * k * u
AURORA_INLINE float product_of_three(const float* r, const float* k, const float* u, std::size_t n) {
    Floats sums = {};
    float rest = 0;
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) sums += load(r + i) * load(k + i) * load(u + i);
    for (; i < n; ++i) rest += r[i] * k[i] * u[i];
    return sum(sums) + rest;
}

// y = r S + own * v and S <- diag(decay) S + k v, for `STRIP` columns.
AURORA_INLINE void wkv6_strip(const float* receptance, const float* key, const float* value, const float* decay,
                              float own, std::size_t size, const float* state, float* next, float* output) {
    Floats v[STRIP_VECTORS], y[STRIP_VECTORS];
    AURORA_UNROLL
    for (std::size_t j = 0; j < STRIP_VECTORS; ++j) {
        v[j] = load(value + j * LANES);
        y[j] = own * v[j];
    }
    for (std::size_t i = 0; i < size; ++i, state += size, next += size) {
        // All is read before anything is written: a compiler that fears an overlap reads and multiplies anew each time.
        const Floats r = splat(receptance[i]), k = splat(key[i]), d = splat(decay[i]);
        Floats s[STRIP_VECTORS];
        AURORA_UNROLL
        for (std::size_t j = 0; j < STRIP_VECTORS; ++j) {
            s[j] = load(state + j * LANES);
            y[j] += r * s[j];
        }
        AURORA_UNROLL
        for (std::size_t j = 0; j < STRIP_VECTORS; ++j) store(next + j * LANES, d * s[j] + k * v[j]);
    }
    AURORA_UNROLL
    for (std::size_t j = 0; j < STRIP_VECTORS; ++j) store(output + j * LANES, y[j]);
}

static void wkv6(const WkvHead& head) {
    const std::size_t size = head.size;
    alignas(VECTOR_BYTES) float decay[MAX_HEAD_SIZE];
    const float* state = head.state;
    for (std::size_t t = 0; t < head.n_tokens; ++t, state = head.next_state) {
        const std::size_t at = t * head.row_stride;
        const float *r = head.receptance + at, *k = head.key + at, *v = head.value + at;
        prefetch_token(head, t);
        exponentials(head.log_decay + at, size, decay);
        const float own = product_of_three(r, k, head.bonus, size);
        float* y = head.output + at;
        std::size_t j = 0;
        for (; j + STRIP <= size; j += STRIP)
            wkv6_strip(r, k, v + j, decay, own, size, state + j, head.next_state + j, y + j);
        for (; j < size; ++j) {
            float total = own * v[j];
            for (std::size_t i = 0; i < size; ++i) {
                const float s = state[i * size + j];
                total += r[i] * s;
                head.next_state[i * size + j] = decay[i] * s + k[i] * v[j];
            }
            y[j] = total;
        }
    }
}

// S <- diag(decay) S + b (a S) + k v and y = r S, with the state after the update, for `STRIP` columns.
AURORA_INLINE void wkv7_strip(const float* receptance, const float* key, const float* value, const float* decay,
                              const float* removal, const float* replacement, std::size_t size, const float* state,
                              float* next, float* output) {
    Floats v[STRIP_VECTORS], y[STRIP_VECTORS], removed[STRIP_VECTORS];
    AURORA_UNROLL
    for (std::size_t j = 0; j < STRIP_VECTORS; ++j) {
        v[j] = load(value + j * LANES);
        y[j] = removed[j] = Floats{};
    }
    for (std::size_t i = 0; i < size; ++i)
        AURORA_UNROLL
        for (std::size_t j = 0; j < STRIP_VECTORS; ++j) removed[j] += removal[i] * load(state + i * size + j * LANES);
    for (std::size_t i = 0; i < size; ++i, state += size, next += size) {
        const Floats r = splat(receptance[i]), k = splat(key[i]), d = splat(decay[i]), b = splat(replacement[i]);
        Floats s[STRIP_VECTORS];
        AURORA_UNROLL
        for (std::size_t j = 0; j < STRIP_VECTORS; ++j) {
            s[j] = d * load(state + j * LANES) + b * removed[j] + k * v[j];
            y[j] += r * s[j];
        }
        AURORA_UNROLL
        for (std::size_t j = 0; j < STRIP_VECTORS; ++j) store(next + j * LANES, s[j]);
    }
    AURORA_UNROLL
    for (std::size_t j = 0; j < STRIP_VECTORS; ++j) store(output + j * LANES, y[j]);
}

static void wkv7(const WkvHead& head) {
    const std::size_t size = head.size;
    alignas(VECTOR_BYTES) float decay[MAX_HEAD_SIZE];
    const float* state = head.state;
    for (std::size_t t = 0; t < head.n_tokens; ++t, state = head.next_state) {
        const std::size_t at = t * head.row_stride;
        const float *r = head.receptance + at, *k = head.key + at, *v = head.value + at;
        const float *a = head.removal + at, *b = head.replacement + at;
        prefetch_token(head, t);
        exponentials(head.log_decay + at, size, decay);
        float* y = head.output + at;
        std::size_t j = 0;
        for (; j + STRIP <= size; j += STRIP)
            wkv7_strip(r, k, v + j, decay, a, b, size, state + j, head.next_state + j, y + j);
        for (; j < size; ++j) {
            float removed = 0, total = 0;
            for (std::size_t i = 0; i < size; ++i) removed += a[i] * state[i * size + j];
            for (std::size_t i = 0; i < size; ++i) {
                const float s = decay[i] * state[i * size + j] + b[i] * removed + k[i] * v[j];
                total += r[i] * s;
                head.next_state[i * size + j] = s;
            }
            y[j] = total;
        }
    }
}
