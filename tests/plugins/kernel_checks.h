// What the tests of the kernels share: buffers of exactly the size needed, random numbers, threads, comparisons.
#pragma once

#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../plugins/cpu/levels.h"
#include "../../plugins/cpu/parallel.h"

namespace {

using namespace aurora;

std::mt19937 generator(0);
int n_checks = 0, n_failures = 0;

// A block of exactly n elements, from a place that no vector likes.
template <typename T>
class Buffer {
public:
    explicit Buffer(std::size_t n, std::size_t shift = 1) : memory_(new T[n + shift]), first_(memory_.get() + shift), n_(n) {}
    T* data() const { return first_; }
    std::size_t size() const { return n_; }
    T& operator[](std::size_t i) const { return first_[i]; }
    T* begin() const { return first_; }
    T* end() const { return first_ + n_; }

private:
    std::unique_ptr<T[]> memory_;
    T* first_;
    std::size_t n_;
};

Buffer<float> normal(std::size_t n, float scale = 1) {
    std::normal_distribution<float> distribution(0, scale);
    Buffer<float> values(n);
    for (float& value : values) value = distribution(generator);
    return values;
}

// Threads that are made for each call: slow, and enough to let kernels meet.
Parallel threads(int* n_threads) {
    return {[](void* n_threads, std::size_t n, void (*work)(void*, std::size_t), void* context) {
                std::vector<std::thread> pool;
                const std::size_t step = static_cast<std::size_t>(*static_cast<int*>(n_threads));
                for (std::size_t first = 0; first < step; ++first)
                    pool.emplace_back([=] { for (std::size_t i = first; i < n; i += step) work(context, i); });
                for (std::thread& thread : pool) thread.join();
            },
            n_threads};
}

void expect_near(const char* what, const char* level, double actual, double expected, double bound) {
    ++n_checks;
    if (std::fabs(actual - expected) <= bound || (std::isnan(actual) && std::isnan(expected))) return;
    if (++n_failures <= 20) std::printf("%s, %s: %.9g, expected %.9g +- %.3g\n", level, what, actual, expected, bound);
}

template <typename Actual, typename Expected>
void expect_all_near(const char* what, const char* level, const Actual& actual, const Expected& expected, double error) {
    double scale = 1e-30;
    for (double value : expected) scale = std::fmax(scale, std::fabs(value));
    for (std::size_t i = 0; i < expected.size(); ++i) expect_near(what, level, actual[i], expected[i], error * scale);
}

}  // namespace
