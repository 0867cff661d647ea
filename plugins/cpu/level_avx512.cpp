// AVX-512 with VNNI: Intel from Ice Lake, AMD from Zen 4.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "levels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,prefer-vector-width=512")
#endif

namespace aurora::avx512 {

#define VECTOR_BYTES 64
#include "simd.h"

constexpr const char* LEVEL_NAME = "avx512-vnni";
constexpr std::size_t TILE_OUTPUTS = 14, PANEL_VECTORS = 2, REGISTERS = 32;
constexpr std::int32_t OFFSET = 128;

static bool is_supported() {
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

// Signed bytes, one for a lane. By a mask of all: GCC 12 warns of its own undefined value in the form without.
AURORA_INLINE Ints widen(const std::int8_t* from) {
    return (Ints)_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128((const __m128i*)from));
}

AURORA_INLINE Ints dot4(Ints sums, Ints weights, Ints activations) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, (__m512i)activations);
}

AURORA_INLINE Ints dot8(Ints sums, Ints weights, Ints even, Ints odd) {
    return dot4(dot4(sums, low_halves(weights), even), high_halves(weights), odd);
}

#include "level_table.h"

}  // namespace aurora::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
