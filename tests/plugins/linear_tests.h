// Linear layers of 8 and 4 bits: part of kernel_tests.cpp.
#pragma once

#include "../../plugins/linear/linear_cpu.h"
#include "kernel_checks.h"

namespace {

// Every code there is, in turn; the file has two of 4 bits in a byte.
Buffer<std::uint8_t> stored_codes(const std::vector<int>& codes, std::size_t bits) {
    Buffer<std::uint8_t> stored(codes.size() * bits / 8, 3);
    for (std::size_t i = 0; i < stored.size(); ++i)
        stored[i] = static_cast<std::uint8_t>(bits == 8 ? codes[i] : codes[2 * i] | codes[2 * i + 1] << 4);
    return stored;
}

void test_linear(const Kernels& kernels, std::size_t bits, std::size_t T, std::size_t K, std::size_t N, std::size_t block, int n_threads) {
    const std::size_t n_blocks = (K + block - 1) / block;
    const int n_codes = bits == 8 ? 256 : 16, zero = n_codes / 2;
    std::vector<int> codes(N * n_blocks * block);
    for (std::size_t i = 0; i < codes.size(); ++i)
        codes[i] = i % (n_blocks * block) < K ? static_cast<int>(generator() % static_cast<unsigned>(n_codes)) : zero;
    const auto stored = stored_codes(codes, bits);
    auto scales = normal(N * n_blocks, 0.01f);
    auto x = normal(T * K);
    if (T > 2) std::fill(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(K), 0.0f);
    Buffer<float> y(T * N);
    const BlockWeights weights{N, K, block, stored.data(), scales.data(), bits};
    linear(kernels, weights, x.data(), T, {}, y.data(), threads(&n_threads));
    double scale = 1e-30;
    std::vector<double> expected(T * N), bounds(T * N);
    for (std::size_t t = 0; t < T; ++t) {
        for (std::size_t n = 0; n < N; ++n) {
            double total = 0, bound = 0, squares = 0;
            for (std::size_t q = 0; q < n_blocks; ++q) {
                float peak = 0;
                for (std::size_t i = q * block; i < std::fmin(K, (q + 1) * block); ++i) peak = std::fmax(peak, std::fabs(x[t * K + i]));
                const double inverse = peak > 0 ? 127.0f / peak : 0, step = peak / 127.0 * scales[n * n_blocks + q];
                for (std::size_t i = q * block; i < std::fmin(K, (q + 1) * block); ++i) {
                    const double exact = x[t * K + i] * inverse, code = codes[n * n_blocks * block + i] - zero;
                    total += std::nearbyint(exact) * code * step;
                    squares += std::pow(std::nearbyint(exact) * code * step, 2);
                    // A number between two codes may go either way in float.
                    if (std::fabs(std::fabs(exact - std::trunc(exact)) - 0.5) < 1e-4) bound += std::fabs(code * step);
                }
            }
            expected[t * N + n] = total, bounds[t * N + n] = bound;
            scale = std::fmax(scale, std::sqrt(squares));  // the total may be nearly nothing
        }
    }
    for (std::size_t i = 0; i < T * N; ++i) expect_near(bits == 8 ? "linear" : "linear, 4 bits", kernels.name, y[i], expected[i], 1e-5 * scale + bounds[i]);
}

}  // namespace
