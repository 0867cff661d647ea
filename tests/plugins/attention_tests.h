// Attention of a vision block: part of kernel_tests.cpp.
#pragma once

#include "../../plugins/attention/attention_cpu.h"
#include "kernel_checks.h"

namespace {

void test_attention(const Kernels& kernels, std::size_t F, std::size_t T, std::size_t H, std::size_t N, int n_threads) {
    const std::size_t D = H * N;
    auto q = normal(F * T * D), k = normal(F * T * D), v = normal(F * T * D), qb = normal(D), kb = normal(D), vb = normal(D);
    Buffer<float> mixed(F * T * D), metric(F * T * N);
    const float scale = 1 / std::sqrt(static_cast<float>(N));
    heads_attention(kernels,
                    {F, T, H, N, scale, q.data(), k.data(), v.data(), qb.data(), kb.data(), vb.data(), mixed.data(), metric.data()},
                    threads(&n_threads));
    std::vector<double> expected(F * T * D), means(F * T * N);
    for (std::size_t f = 0; f < F; ++f)
        for (std::size_t h = 0; h < H; ++h)
            for (std::size_t t = 0; t < T; ++t) {
                std::vector<double> shares(T);
                double total = 0;
                for (std::size_t s = 0; s < T; ++s) {
                    double score = 0;
                    for (std::size_t i = h * N; i < (h + 1) * N; ++i)
                        score += (static_cast<double>(q[(f * T + t) * D + i]) + qb[i]) * scale * (static_cast<double>(k[(f * T + s) * D + i]) + kb[i]);
                    total += shares[s] = std::exp(score);
                }
                for (std::size_t i = 0; i < N; ++i) {
                    for (std::size_t s = 0; s < T; ++s)
                        expected[(f * T + t) * D + h * N + i] += shares[s] / total * (static_cast<double>(v[(f * T + s) * D + h * N + i]) + vb[h * N + i]);
                    means[(f * T + t) * N + i] += (static_cast<double>(k[(f * T + t) * D + h * N + i]) + kb[h * N + i]) / static_cast<double>(H);
                }
            }
    expect_all_near("metric of attention", kernels.name, metric, means, 1e-6);
    expect_all_near("attention", kernels.name, mixed, expected, 0.06);
}

}  // namespace
