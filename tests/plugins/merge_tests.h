// Merging of tokens: part of kernel_tests.cpp.
#pragma once

#include <algorithm>

#include "../../plugins/merge/merge_cpu.h"
#include "kernel_checks.h"

namespace {

struct MergeCase {
    std::size_t F, T, D, M, r;
    bool protect_first, first_apart;
    int order, n_threads;
    float metric;  // NaN: of all; 0: each token has one of M axes, so that most are equal; else the scale of drawn ones
};

// One frame as the paper has it: tokens in their new order, each with those that it was made of, the first of them itself.
std::vector<std::vector<std::size_t>> merged_tokens(const MergeCase& c, const float* metric, const float* sizes) {
    const std::size_t first = c.first_apart;
    const auto similarity = [&](std::size_t a, std::size_t b) {
        double product = 0, aa = 0, bb = 0;
        for (std::size_t i = 0; i < c.M; ++i) {
            const double x = metric[a * c.M + i], y = metric[b * c.M + i];
            product += x * y, aa += x * x, bb += y * y;
        }
        return product / std::sqrt(aa) / std::sqrt(bb);
    };
    std::vector<std::size_t> sources, target(c.T);
    std::vector<double> best(c.T, -INFINITY);
    for (std::size_t a = first; a < c.T; a += 2) {
        sources.push_back(a);
        for (std::size_t b = first + 1; b < c.T; b += 2)
            if (similarity(a, b) > best[a]) best[a] = similarity(a, b), target[a] = b;
    }
    if (c.protect_first && !first) best[0] = -INFINITY;
    std::stable_sort(sources.begin(), sources.end(), [&](std::size_t i, std::size_t j) { return best[i] > best[j]; });
    std::sort(sources.begin() + static_cast<std::ptrdiff_t>(c.r), sources.end());
    std::vector<std::vector<std::size_t>> tokens;
    if (first) tokens.push_back({0});
    for (std::size_t i = c.r; i < sources.size(); ++i) tokens.push_back({sources[i]});
    for (std::size_t b = first + 1; b < c.T; b += 2) {
        tokens.push_back({b});
        for (std::size_t i = 0; i < c.r; ++i)
            if (target[sources[i]] == b) tokens.back().push_back(sources[i]);
    }
    const auto size = [&](const std::vector<std::size_t>& token) {
        double total = 0;
        for (std::size_t i : token) total += sizes[i];
        return total;
    };
    if (c.order)
        std::stable_sort(tokens.begin() + c.protect_first, tokens.end(), [&](const auto& i, const auto& j) { return c.order * size(i) < c.order * size(j); });
    return tokens;
}

void test_merge(const Kernels& kernels, MergeCase c) {
    const std::size_t after = c.T - c.r, P = c.T + 3;
    const auto x = normal(c.F * c.T * c.D), metric = normal(c.F * c.T * c.M, std::isnan(c.metric) ? 1 : c.metric);
    Buffer<float> sizes(c.F * c.T), merged(c.F * after * c.D), merged_sizes(c.F * after);
    Buffer<std::int64_t> owner(c.F * P), merged_owner(c.F * P);
    for (float& size : sizes) size = static_cast<float>(1 + generator() % 4);
    for (std::int64_t& token : owner) token = static_cast<std::int64_t>(generator() % c.T);
    for (std::size_t i = 0; i < c.F * c.T; ++i)
        if (c.metric == 0) metric[i * c.M + generator() % c.M] = static_cast<float>(1 << generator() % 3);
    if (std::isnan(c.metric)) std::fill(metric.begin(), metric.end(), NAN);
    const MergeTokens all{c.F, c.T, c.D, c.M, P, c.r, c.protect_first, c.first_apart, c.order, x.data(), metric.data(),
                          sizes.data(), owner.data(), merged.data(), merged_sizes.data(), merged_owner.data()};
    expect_near("tokens are right", kernels.name, wrong_tokens(all) == nullptr, 1, 0);
    merge_tokens(kernels, all, threads(&c.n_threads));
    for (std::size_t f = 0; f < c.F; ++f) {
        double total = 0;
        for (std::size_t i = 0; i < c.T; ++i) total += sizes[f * c.T + i];
        for (std::size_t i = 0; i < after; ++i) total -= merged_sizes[f * after + i];
        expect_near("sizes together", kernels.name, total, 0, 0);
        if (std::isnan(c.metric)) continue;  // whichever merge
        const auto tokens = merged_tokens(c, &metric[f * c.T * c.M], &sizes[f * c.T]);
        std::vector<std::size_t> position(c.T);
        for (std::size_t t = 0; t < after; ++t) {
            double size = 0;
            for (std::size_t i : tokens[t]) size += sizes[f * c.T + i], position[i] = t;
            expect_near("size", kernels.name, merged_sizes[f * after + t], size, 0);
            for (std::size_t d = 0; d < c.D; ++d) {
                double value = 0;
                for (std::size_t i : tokens[t]) value += static_cast<double>(x[(f * c.T + i) * c.D + d]) * sizes[f * c.T + i];
                expect_near("merged token", kernels.name, merged[(f * after + t) * c.D + d], value / size, 2e-6);
            }
        }
        for (std::size_t p = f * P; p < (f + 1) * P; ++p)
            expect_near("owner", kernels.name, static_cast<double>(merged_owner[p]), static_cast<double>(position[static_cast<std::size_t>(owner[p])]), 0);
    }
}

void test_merges(const Kernels& kernels) {
    for (float metric : {1.0f, 0.0f, 1e-10f, NAN})
        for (int order : {1, 0, -1})
            for (int first : {0, 1, 2}) {
                const bool protect = first > 0, apart = first == 2;
                test_merge(kernels, {2, 9, 5, 7, 3, protect, apart, order, 2, metric});
                test_merge(kernels, {1, 40, 20, 64, 19, protect, apart, order, 3, metric});
                test_merge(kernels, {1, 3, 1, 1, 1, protect, apart, order, 1, metric == 1 ? 0 : metric});
            }
    test_merge(kernels, {1, 2, 33, 1, 1, false, false, 1, 1, 0});
    test_merge(kernels, {3, 151, 70, 30, 21, true, false, 1, 2, 1});
    // What is refused: a size or an owner that would be read by.
    float sizes[] = {1, 1, 1, NAN};
    std::int64_t owner[] = {0, 4};
    MergeTokens all{1, 4, 1, 1, 1, 1, false, false, 1, nullptr, nullptr, sizes, owner, nullptr, nullptr, nullptr};
    expect_near("a size that is none", kernels.name, wrong_tokens(all) != nullptr, 1, 0);
    sizes[3] = 1, all.n_patches = 2;
    expect_near("an owner that is none", kernels.name, wrong_tokens(all) != nullptr, 1, 0);
    owner[1] = 3;
    expect_near("a token of each kind", kernels.name, wrong_tokens(all) == nullptr, 1, 0);
}

}  // namespace
