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

// Operations of one thread, a product and a sum each; 0 where the machine has no such instruction.
static double dot_products(long rounds, volatile int* sink) {
    constexpr int CHAINS = 12;
#if defined(__AVX512VNNI__)
    __m512i sums[CHAINS], a = _mm512_set1_epi8(static_cast<char>(*sink + 1)), b = a;
    for (int i = 0; i < CHAINS; ++i) sums[i] = _mm512_set1_epi32(i);
    for (long r = 0; r < rounds; ++r) {
        for (int i = 0; i < CHAINS; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
        asm volatile("" : "+v"(sums[0]));
    }
    int total = 0;
    for (auto& sum : sums) total += _mm512_reduce_add_epi32(sum);
    *sink = total & 1;
    return 128.0 * CHAINS * rounds;
#elif defined(__AVXVNNI__)
    __m256i sums[CHAINS], a = _mm256_set1_epi8(static_cast<char>(*sink + 1)), b = a;
    for (int i = 0; i < CHAINS; ++i) sums[i] = _mm256_set1_epi32(i);
    for (long r = 0; r < rounds; ++r) {
        for (int i = 0; i < CHAINS; ++i) sums[i] = _mm256_dpbusd_avx_epi32(sums[i], a, b);
        asm volatile("" : "+x"(sums[0]));
    }
    int total = 0;
    for (auto& sum : sums) total += _mm256_extract_epi32(sum, 0);
    *sink = total & 1;
    return 64.0 * CHAINS * rounds;
#elif defined(__ARM_FEATURE_DOTPROD)
    int32x4_t sums[CHAINS];
    int8x16_t a = vdupq_n_s8(static_cast<std::int8_t>(*sink + 1)), b = a;
    for (int i = 0; i < CHAINS; ++i) sums[i] = vdupq_n_s32(i);
    for (long r = 0; r < rounds; ++r) {
        for (int i = 0; i < CHAINS; ++i) sums[i] = vdotq_s32(sums[i], a, b);
        asm volatile("" : "+w"(sums[0]));
    }
    int total = 0;
    for (auto& sum : sums) total += vaddvq_s32(sum);
    *sink = total & 1;
    return 32.0 * CHAINS * rounds;
#else
    return *sink = 0, 0.0 * rounds;
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
