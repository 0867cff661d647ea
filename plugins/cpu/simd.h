// Vectors of the width of a level, in the vector extension that GCC and Clang share: each level includes this file
// once, in its own namespace and after naming its instruction set, so that the same source becomes other instructions.
// Defined by the level: VECTOR_BYTES, REGISTERS, dot4().
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define AURORA_INLINE static inline __attribute__((always_inline))
#define AURORA_MEMBER inline __attribute__((always_inline))

// Before a loop of constant length whose arrays are to be registers.
#if defined(__clang__)
#define AURORA_UNROLL _Pragma("clang loop unroll(full)")
#else
#define AURORA_UNROLL _Pragma("GCC unroll 64")
#endif

constexpr std::size_t LANES = VECTOR_BYTES / 4;

typedef float Floats __attribute__((vector_size(VECTOR_BYTES)));
typedef std::int32_t Ints __attribute__((vector_size(VECTOR_BYTES)));

AURORA_INLINE Floats load(const float* from) {
    Floats value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
AURORA_INLINE void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

AURORA_INLINE Ints load_ints(const void* from) {
    Ints value;
    std::memcpy(&value, from, sizeof value);
    return value;
}
AURORA_INLINE void store_ints(void* to, Ints value) { std::memcpy(to, &value, sizeof value); }

AURORA_INLINE Floats splat(float value) { return value - Floats{}; }
AURORA_INLINE Ints splat_int(std::int32_t value) { return value - Ints{}; }

AURORA_INLINE std::int32_t load_quad(const void* from) {
    std::int32_t value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

AURORA_INLINE Floats to_floats(Ints value) { return __builtin_convertvector(value, Floats); }
AURORA_INLINE Floats as_floats(Ints value) { return (Floats)value; }
AURORA_INLINE Ints as_ints(Floats value) { return (Ints)value; }

AURORA_INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
AURORA_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
AURORA_INLINE Floats absolute(Floats a) { return as_floats(as_ints(a) & 0x7fffffff); }

// The lower, or upper, halves of two vectors, lane by lane in turn.
AURORA_INLINE Ints interleave_low(Ints a, Ints b) {
#if VECTOR_BYTES == 64
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif VECTOR_BYTES == 32
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}
AURORA_INLINE Ints interleave_high(Ints a, Ints b) {
#if VECTOR_BYTES == 64
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif VECTOR_BYTES == 32
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

AURORA_INLINE float sum(Floats value) {
    float total = 0;
    for (std::size_t i = 0; i < LANES; ++i) total += value[i];
    return total;
}

// The nearest integer to a value of less than 2^22, ties to even, as a float.
AURORA_INLINE Floats round_to_int(Floats value) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: numbers of this size have no fraction
    return (value + magic) - magic;   // which no compiler simplifies, unless it is told -ffast-math
}

// exp to 2 units in the last place; 0 under -87.3, where float32 has no normal numbers left, inf over 88.7. NaN stays.
AURORA_INLINE Floats exponential(Floats x) {
    const Floats low = splat(-87.33654f), high = splat(88.72284f);
    const Floats inside = x < low ? low : (x > high ? high : x);
    const Floats n = round_to_int(inside * 1.44269504f);
    const Floats r = (inside - n * 0.693359375f) - n * -2.12194440e-4f;  // log 2 in two parts
    Floats p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    // 2^n in two factors: n may be 128, which no exponent holds.
    const Ints whole = __builtin_convertvector(n, Ints);
    const Ints half = whole >> 1;
    const Floats scaled = p * as_floats((half + 127) << 23) * as_floats((whole - half + 127) << 23);
    const Floats bounded = x > high ? splat(INFINITY) : (x < low ? Floats{} : scaled);
    return x != x ? x : bounded;
}

AURORA_INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }

// tanh by exp; for small x by its series, where 1 - 2 / (exp(2x) + 1) would cancel.
AURORA_INLINE Floats tangent_hyperbolic(Floats x) {
    const Floats a = absolute(x), squared = x * x;
    const Floats far = 1.0f - 2.0f / (exponential(2.0f * a) + 1.0f);
    Floats series = splat(-5.70498872745e-3f);
    series = series * squared + 2.06390887954e-2f;
    series = series * squared - 5.37397155531e-2f;
    series = series * squared + 1.33314422036e-1f;
    series = series * squared - 3.33332819422e-1f;
    const Floats near = series * squared * x + x;
    return a < 0.625f ? near : (x < 0.0f ? -far : far);
}
