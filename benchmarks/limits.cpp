// What this machine can do at most: reads of memory, and 8-bit products in registers. Prints one JSON object.
// Compiled for the machine by bench_language.py:  c++ -std=c++17 -O3 -march=native -pthread limits.cpp
// Usage: limits THREADS
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

template <typename Work>
double seconds(int n_threads, const Work& work) {
    const auto began = std::chrono::steady_clock::now();
    std::vector<std::thread> threads;
    for (int i = 0; i < n_threads; ++i) threads.emplace_back([&, i] { work(i); });
    for (auto& thread : threads) thread.join();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

// Four sums of whole cache lines, which no compiler can leave out.
static std::uint64_t read_all(const std::uint64_t* from, std::size_t n) {
    std::uint64_t sums[32] = {};
    for (std::size_t i = 0; i < n; i += 32)
        for (int j = 0; j < 32; ++j) sums[j] += from[i + j];
    std::uint64_t total = 0;
    for (std::uint64_t sum : sums) total += sum;
    return total;
}

// Twelve sums in registers, more than any processor has in flight. Written out: an array would live in memory.
#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#if defined(__AVX512VNNI__)
using Sums = __m512i;
using Bytes = __m512i;
static Bytes splat(int value) { return _mm512_set1_epi8(static_cast<char>(value)); }
static Sums dot(Sums sums, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sums, a, b); }
#elif defined(__AVXVNNI__)
using Sums = __m256i;
using Bytes = __m256i;
static Bytes splat(int value) { return _mm256_set1_epi8(static_cast<char>(value)); }
static Sums dot(Sums sums, Bytes a, Bytes b) { return _mm256_dpbusd_avx_epi32(sums, a, b); }
#elif defined(__ARM_FEATURE_DOTPROD)
using Sums = int32x4_t;
using Bytes = int8x16_t;
static Bytes splat(int value) { return vdupq_n_s8(static_cast<std::int8_t>(value)); }
static Sums dot(Sums sums, Bytes a, Bytes b) { return vdotq_s32(sums, a, b); }
#else
#define NO_DOT_PRODUCTS
#endif

// Operations of one thread, a product and a sum each; 0 where the machine has no such instruction.
static double dot_products(long rounds, volatile int* sink) {
#if defined(NO_DOT_PRODUCTS)
    *sink = 0;
    return 0.0 * static_cast<double>(rounds);
#else
    const Bytes a = splat(*sink + 1), b = splat(*sink + 2);
#define DECLARE(i) Sums sum##i = (Sums)splat(i);
#define STEP(i) sum##i = dot(sum##i, a, b);
#define KEEP(i) kept[i] = sum##i;
    TWELVE(DECLARE)
    for (long r = 0; r < rounds; ++r) {
        TWELVE(STEP)
        asm volatile("");
    }
    Sums kept[12];
    TWELVE(KEEP)
    int total = 0;
    for (std::size_t i = 0; i < sizeof kept; ++i) total += reinterpret_cast<const char*>(kept)[i];
    *sink = total;
    return 2.0 * sizeof(Sums) * 12 * static_cast<double>(rounds);
#endif
}

int main(int argc, char** argv) {
    const int n_threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 1;
    constexpr std::size_t N_BYTES = std::size_t{1} << 30;
    constexpr int N_TIMES = 7;
    const std::size_t n = N_BYTES / sizeof(std::uint64_t) / n_threads / 32 * 32;
    std::unique_ptr<std::uint64_t[]> memory(new std::uint64_t[n * n_threads]);
    std::fill(memory.get(), memory.get() + n * n_threads, 1);
    std::vector<double> reads, products;
    volatile std::uint64_t kept = 0;
    for (int i = 0; i < N_TIMES; ++i) {
        const double s = seconds(n_threads, [&](int t) { kept = kept + read_all(memory.get() + t * n, n); });
        reads.push_back(static_cast<double>(n) * n_threads * sizeof(std::uint64_t) / s);
        double operations = 0;
        const double u = seconds(n_threads, [&](int t) {
            volatile int sink = 0;
            const double mine = dot_products(10'000'000, &sink);
            if (t == 0) operations = mine * n_threads;
        });
        products.push_back(operations / u);
    }
    std::sort(reads.begin(), reads.end());
    std::sort(products.begin(), products.end());
    std::printf("{\"read_gb_per_s\": %.2f, \"int8_gop_per_s\": %.1f}\n", reads[N_TIMES / 2] / 1e9, products[N_TIMES / 2] / 1e9);
}
