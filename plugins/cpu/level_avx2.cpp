// AVX2 and FMA: x86-64 since Haswell and Zen.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "levels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace aurora::avx2 {

#define VECTOR_BYTES 32
#include "simd.h"

constexpr const char* LEVEL_NAME = "avx2";
constexpr std::size_t TILE_OUTPUTS = 4, PANEL_VECTORS = 2, REGISTERS = 16;
constexpr std::int32_t OFFSET = 0;

static bool is_supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// Signed bytes, one for a lane.
AURORA_INLINE Ints widen(const std::int8_t* from) {
    return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
}

// vpmaddubsw adds two products of an unsigned and a signed byte in int16. The magnitude of a weight, up to 128, is the
// unsigned one; an activation takes its sign, and is never -128, which has no negative. The sums cannot overflow.
AURORA_INLINE Ints dot4(Ints sums, Ints weights, Ints activations) {
    const __m256i w = (__m256i)weights;
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8((__m256i)activations, w));
    return sums + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

// Weights of 0 to 15 need no sign, and four products of them fit into int16.
AURORA_INLINE Ints dot8(Ints sums, Ints weights, Ints even, Ints odd) {
    const __m256i low = _mm256_maddubs_epi16((__m256i)low_halves(weights), (__m256i)even);
    const __m256i high = _mm256_maddubs_epi16((__m256i)high_halves(weights), (__m256i)odd);
    return sums + (Ints)_mm256_madd_epi16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1));
}

#include "level_table.h"

}  // namespace aurora::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
