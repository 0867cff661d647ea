// AVX2 with VNNI: Intel from Alder Lake, AMD from Zen 5.
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

#include "levels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#endif

namespace aurora::avx_vnni {

#define VECTOR_BYTES 32
#include "simd.h"

constexpr const char* LEVEL_NAME = "avx-vnni";
constexpr std::size_t TILE_OUTPUTS = 6, PANEL_VECTORS = 2, REGISTERS = 16;
constexpr std::int32_t OFFSET = 128;

static bool is_supported() {
    unsigned int eax = 1, ebx, ecx = 1, edx;  // __builtin_cpu_supports knows no "avxvnni" before GCC 13
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
    asm volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "a"(7), "c"(1));
    return eax & (1u << 4);
}

// Signed bytes, one for a lane.
AURORA_INLINE Ints widen(const std::int8_t* from) {
    return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
}

AURORA_INLINE Ints dot4(Ints sums, Ints weights, Ints activations) {
    return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums, (__m256i)weights, (__m256i)activations);
}

AURORA_INLINE Ints dot8(Ints sums, Ints weights, Ints even, Ints odd) {
    return dot4(dot4(sums, low_halves(weights), even), high_halves(weights), odd);
}

#include "level_table.h"

}  // namespace aurora::avx_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
