// Vectors of the width of a level, in the vector extension that GCC and Clang share: each level includes this file
// once, in its own namespace and after naming its instruction set, so that the same source becomes other instructions.
// Defined by the level: VECTOR_BYTES, REGISTERS, dot4(), dot8().
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
typedef std::int64_t Longs __attribute__((vector_size(VECTOR_BYTES)));

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

// The halves of every byte: the even and the odd ones of the numbers of 4 bits that lie in a vector.
AURORA_INLINE Ints low_halves(Ints value) { return value & 0x0f0f0f0f; }
AURORA_INLINE Ints high_halves(Ints value) { return (value >> 4) & 0x0f0f0f0f; }

AURORA_INLINE Floats to_floats(Ints value) { return __builtin_convertvector(value, Floats); }
AURORA_INLINE Floats as_floats(Ints value) { return (Floats)value; }
AURORA_INLINE Ints as_ints(Floats value) { return (Ints)value; }

AURORA_INLINE Floats smaller(Floats a, Floats b) { return a < b ? a : b; }
AURORA_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
AURORA_INLINE Floats absolute(Floats a) { return as_floats(as_ints(a) & 0x7fffffff); }

// Shuffles of two vectors, quarter by quarter (of 16 bytes): a0 b0 a1 b1, then a2 b2 a3 b3, a0 a1 b0 b1, a2 a3 b2 b3;
// and the even, then the odd quarters of both. One instruction each; across quarters more would be needed.
#if VECTOR_BYTES == 64
#define AURORA_SHUFFLE(a, b, narrow, middle, wide) __builtin_shufflevector(a, b, AURORA_LIST wide)
#elif VECTOR_BYTES == 32
#define AURORA_SHUFFLE(a, b, narrow, middle, wide) __builtin_shufflevector(a, b, AURORA_LIST middle)
#else
#define AURORA_SHUFFLE(a, b, narrow, middle, wide) __builtin_shufflevector(a, b, AURORA_LIST narrow)
#endif
#define AURORA_LIST(...) __VA_ARGS__

AURORA_INLINE Ints low_ints(Ints a, Ints b) {
    return AURORA_SHUFFLE(a, b, (0, 4, 1, 5), (0, 8, 1, 9, 4, 12, 5, 13),
                          (0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29));
}
AURORA_INLINE Ints high_ints(Ints a, Ints b) {
    return AURORA_SHUFFLE(a, b, (2, 6, 3, 7), (2, 10, 3, 11, 6, 14, 7, 15),
                          (2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31));
}
AURORA_INLINE Ints low_pairs(Ints a, Ints b) {
    return (Ints)AURORA_SHUFFLE((Longs)a, (Longs)b, (0, 2), (0, 4, 2, 6), (0, 8, 2, 10, 4, 12, 6, 14));
}
AURORA_INLINE Ints high_pairs(Ints a, Ints b) {
    return (Ints)AURORA_SHUFFLE((Longs)a, (Longs)b, (1, 3), (1, 5, 3, 7), (1, 9, 3, 11, 5, 13, 7, 15));
}
AURORA_INLINE Ints even_quarters(Ints a, Ints b) {
    return AURORA_SHUFFLE(a, b, (0, 1, 2, 3), (0, 1, 2, 3, 8, 9, 10, 11),
                          (0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27));
}
AURORA_INLINE Ints odd_quarters(Ints a, Ints b) {
    return AURORA_SHUFFLE(a, b, (4, 5, 6, 7), (4, 5, 6, 7, 12, 13, 14, 15),
                          (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
}

// LANES rows of LANES ints become LANES columns: squares of 4 by 4 in each quarter, then the quarters.
AURORA_INLINE void transpose(Ints (&rows)[LANES]) {
    AURORA_UNROLL
    for (std::size_t i = 0; i < LANES; i += 4) {
        const Ints low = low_ints(rows[i], rows[i + 1]), high = high_ints(rows[i], rows[i + 1]);
        const Ints next_low = low_ints(rows[i + 2], rows[i + 3]), next_high = high_ints(rows[i + 2], rows[i + 3]);
        rows[i] = low_pairs(low, next_low);
        rows[i + 1] = high_pairs(low, next_low);
        rows[i + 2] = low_pairs(high, next_high);
        rows[i + 3] = high_pairs(high, next_high);
    }
    AURORA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
#if VECTOR_BYTES == 64
        const Ints even = even_quarters(rows[i], rows[i + 4]), odd = odd_quarters(rows[i], rows[i + 4]);
        const Ints next_even = even_quarters(rows[i + 8], rows[i + 12]), next_odd = odd_quarters(rows[i + 8], rows[i + 12]);
        rows[i] = even_quarters(even, next_even);
        rows[i + 4] = even_quarters(odd, next_odd);
        rows[i + 8] = odd_quarters(even, next_even);
        rows[i + 12] = odd_quarters(odd, next_odd);
#elif VECTOR_BYTES == 32
        const Ints even = even_quarters(rows[i], rows[i + 4]), odd = odd_quarters(rows[i], rows[i + 4]);
        rows[i] = even;
        rows[i + 4] = odd;
#endif
    }
}

// One number of all lanes: halves are put together until four lanes are left, which any machine has.
#if VECTOR_BYTES == 64
#define AURORA_FOLD(T, value, together)                                                                \
    typedef T Half __attribute__((vector_size(32)));                                                   \
    typedef T Quarter __attribute__((vector_size(16)));                                                \
    const Half half = together((Half)__builtin_shufflevector(value, value, 0, 1, 2, 3, 4, 5, 6, 7),    \
                               (Half)__builtin_shufflevector(value, value, 8, 9, 10, 11, 12, 13, 14, 15)); \
    const Quarter four = together((Quarter)__builtin_shufflevector(half, half, 0, 1, 2, 3),            \
                                  (Quarter)__builtin_shufflevector(half, half, 4, 5, 6, 7));
#elif VECTOR_BYTES == 32
#define AURORA_FOLD(T, value, together)                                                                \
    typedef T Quarter __attribute__((vector_size(16)));                                                \
    const Quarter four = together((Quarter)__builtin_shufflevector(value, value, 0, 1, 2, 3),          \
                                  (Quarter)__builtin_shufflevector(value, value, 4, 5, 6, 7));
#else
#define AURORA_FOLD(T, value, together) const auto four = value;
#endif
#define AURORA_ADD(a, b) ((a) + (b))
#define AURORA_MAX(a, b) ((a) > (b) ? (a) : (b))

AURORA_INLINE float sum(Floats value) {
    AURORA_FOLD(float, value, AURORA_ADD)
    return (four[0] + four[2]) + (four[1] + four[3]);
}
AURORA_INLINE std::int32_t sum(Ints value) {
    AURORA_FOLD(std::int32_t, value, AURORA_ADD)
    return (four[0] + four[2]) + (four[1] + four[3]);
}
AURORA_INLINE float largest(Floats value) {
    AURORA_FOLD(float, value, AURORA_MAX)
    const float even = AURORA_MAX(four[0], four[2]), odd = AURORA_MAX(four[1], four[3]);
    return AURORA_MAX(even, odd);
}

// The nearest integer to a value of less than 2^22, ties to even, as a float.
AURORA_INLINE Floats round_to_int(Floats value) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: numbers of this size have no fraction
    return (value + magic) - magic;   // which no compiler simplifies, unless it is told -ffast-math
}

// exp, by the polynomial of Cephes; 0 under -87.3, where float32 has no normal numbers left, inf over 88.7. NaN stays.
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
