// What one thread of this machine can do at most, for `aurora-export bench`: reads of memory, products in registers.
// The caller runs them on as many threads as it wants and keeps the time. The best instructions of the machine are taken,
// whatever level the operators use.
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "levels.h"

namespace aurora {
namespace {

// Twelve sums that wait for nothing but themselves, more than any machine has instructions of a kind under way. They are
// written out, as an array would live in memory; the empty asm keeps the compiler from computing the end at once.
#define AURORA_TWELVE(X, ...) \
    X(0, __VA_ARGS__) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) X(5, __VA_ARGS__) \
    X(6, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) X(10, __VA_ARGS__) X(11, __VA_ARGS__)
#define AURORA_DECLARE(i, VECTOR) VECTOR sum##i = {};
#define AURORA_ADVANCE(i, CONSTRAINT, STEP) sum##i = STEP(sum##i); asm volatile("" : CONSTRAINT(sum##i));
#define AURORA_CHAINS(VECTOR, CONSTRAINT, STEP)                      \
    AURORA_TWELVE(AURORA_DECLARE, VECTOR)                            \
    for (std::int64_t round = 0; round < n_rounds; ++round) {        \
        AURORA_TWELVE(AURORA_ADVANCE, CONSTRAINT, STEP)              \
    }                                                                \
    return 12.0 * static_cast<double>(n_rounds) * sizeof(VECTOR)

// Each level knows how to ask its machine.
bool has_level(const char* name) {
    std::size_t n;
    const Kernels* const* levels = all_levels(&n);
    for (std::size_t i = 0; i < n; ++i)
        if (std::strcmp(levels[i]->name, name) == 0) return levels[i]->is_supported();
    return false;
}

#if defined(__x86_64__)
#define AURORA_TARGET(NAMES) __attribute__((target(NAMES)))

AURORA_TARGET("avx512f,avx512vnni") double int8_avx512(std::int64_t n_rounds) {
    const __m512i a = _mm512_set1_epi8(1);
    #define AURORA_STEP(sum) _mm512_dpbusd_epi32(sum, a, a)
    AURORA_CHAINS(__m512i, "+v", AURORA_STEP) * 2;
#undef AURORA_STEP
}
AURORA_TARGET("avx2") double int8_avx2(std::int64_t n_rounds) {
    const __m256i a = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
    #define AURORA_STEP(sum) _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, sum), ones))
    AURORA_CHAINS(__m256i, "+x", AURORA_STEP) * 2;
#undef AURORA_STEP
}
AURORA_TARGET("avx512f") double fp32_avx512(std::int64_t n_rounds) {
    const __m512 a = _mm512_set1_ps(0.5f);
    #define AURORA_STEP(sum) _mm512_fmadd_ps(sum, a, a)
    AURORA_CHAINS(__m512, "+v", AURORA_STEP) / 4 * 2;
#undef AURORA_STEP
}
AURORA_TARGET("avx2,fma") double fp32_avx2(std::int64_t n_rounds) {
    const __m256 a = _mm256_set1_ps(0.5f);
    #define AURORA_STEP(sum) _mm256_fmadd_ps(sum, a, a)
    AURORA_CHAINS(__m256, "+x", AURORA_STEP) / 4 * 2;
#undef AURORA_STEP
}
AURORA_TARGET("avx2,avxvnni") double int8_avx_vnni(std::int64_t n_rounds) {
    const __m256i a = _mm256_set1_epi8(1);
    #define AURORA_STEP(sum) _mm256_dpbusd_avx_epi32(sum, a, a)
    AURORA_CHAINS(__m256i, "+x", AURORA_STEP) * 2;
#undef AURORA_STEP
}
AURORA_TARGET("avx2") std::uint64_t read_avx2(const std::uint8_t* from, std::size_t n_bytes) {
    __m256i sums[4] = {};
    for (std::size_t i = 0; i + 128 <= n_bytes; i += 128)
        for (int j = 0; j < 4; ++j)
            sums[j] = _mm256_add_epi64(sums[j], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i + 32 * j)));
    std::uint64_t total[16], all = 0;
    std::memcpy(total, sums, sizeof total);
    for (const std::uint64_t part : total) all += part;
    return all;
}
#elif defined(__aarch64__)
__attribute__((target("arch=armv8.2-a+dotprod"))) double int8_dotprod(std::int64_t n_rounds) {
    const int8x16_t a = vdupq_n_s8(1);
    #define AURORA_STEP(sum) vdotq_s32(sum, a, a)
    AURORA_CHAINS(int32x4_t, "+w", AURORA_STEP) * 2;
#undef AURORA_STEP
}
double fp32_neon(std::int64_t n_rounds) {
    const float32x4_t a = vdupq_n_f32(0.5f);
    #define AURORA_STEP(sum) vfmaq_f32(a, sum, a)
    AURORA_CHAINS(float32x4_t, "+w", AURORA_STEP) / 4 * 2;
#undef AURORA_STEP
}
#endif

}  // namespace
}  // namespace aurora

#define AURORA_EXPORT extern "C" __attribute__((visibility("default")))

// Read memory once; the sum of its 64-bit numbers, so that nothing can be left out. The last n_bytes % 256 are not read.
AURORA_EXPORT std::uint64_t aurora_cpu_read(const std::uint8_t* from, std::size_t n_bytes) {
    n_bytes -= n_bytes % 256;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) return aurora::read_avx2(from, n_bytes);
#endif
    std::uint64_t sums[32] = {}, all = 0;
    for (std::size_t i = 0; i < n_bytes; i += sizeof sums) {
        std::uint64_t line[32];
        std::memcpy(line, from + i, sizeof line);
        for (int j = 0; j < 32; ++j) sums[j] += line[j];
    }
    for (const std::uint64_t part : sums) all += part;
    return all;
}

// Operations (a product and a sum are two) on 8-bit numbers in n_rounds; 0 where the machine has no instruction for them.
AURORA_EXPORT double aurora_cpu_int8_products(std::int64_t n_rounds) {
#if defined(__x86_64__)
    if (aurora::has_level("avx512-vnni")) return aurora::int8_avx512(n_rounds);
    if (aurora::has_level("avx-vnni")) return aurora::int8_avx_vnni(n_rounds);
    if (__builtin_cpu_supports("avx2")) return aurora::int8_avx2(n_rounds);
#elif defined(__aarch64__)
    if (aurora::has_level("neon-dotprod")) return aurora::int8_dotprod(n_rounds);
#endif
    return 0.0 * static_cast<double>(n_rounds);
}

// The same on float32.
AURORA_EXPORT double aurora_cpu_fp32_products(std::int64_t n_rounds) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return aurora::fp32_avx512(n_rounds);
    if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2")) return aurora::fp32_avx2(n_rounds);
#elif defined(__aarch64__)
    return aurora::fp32_neon(n_rounds);
#endif
    return 0.0 * static_cast<double>(n_rounds);
}
