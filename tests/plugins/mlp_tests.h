// Linear layers with what is added to them, and two of them with an activation between: part of kernel_tests.cpp.
#pragma once

#include <algorithm>

#include "linear_tests.h"

namespace {

// Codes and scales of a layer that is drawn.
struct DrawnLayer {
    DrawnLayer(std::size_t K, std::size_t N, std::size_t block, std::size_t bits)
        : codes(stored_codes(draw(K, N, block, bits), bits)), scales(normal(N * ((K + block - 1) / block), 0.01f)),
          weights{N, K, block, codes.data(), scales.data(), bits} {}

    static std::vector<int> draw(std::size_t K, std::size_t N, std::size_t block, std::size_t bits) {
        const std::size_t row = (K + block - 1) / block * block;
        std::vector<int> codes(N * row);
        for (std::size_t i = 0; i < codes.size(); ++i)
            codes[i] = i % row < K ? static_cast<int>(generator() % (1u << bits)) : 1 << (bits - 1);
        return codes;
    }

    Buffer<std::uint8_t> codes;
    Buffer<float> scales;
    BlockWeights weights;
};

double activated(Activation activation, double x) {
    if (activation == Activation::SQUARED_RELU) return x > 0 ? x * x : 0;
    return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

// The same as the layers one by one, which `test_linear` compares with the formula.
void test_mlp(const Kernels& kernels, Activation activation, std::size_t bits, std::size_t T, std::size_t K, std::size_t H, std::size_t N,
              std::size_t block, int n_threads) {
    const DrawnLayer first(K, H, block, bits), second(H, N, block, bits);
    const auto x = normal(T * K), bias = normal(H), last_bias = normal(N), residual = normal(T * N);
    const bool adds = activation == Activation::GELU;
    const Added added = adds ? Added{last_bias.data(), residual.data()} : Added{};
    Buffer<float> y(T * N), hidden(T * H), product(T * N);
    mlp(kernels, {first.weights, second.weights, adds ? bias.data() : nullptr, activation}, x.data(), T, added, y.data(), threads(&n_threads));
    linear(kernels, first.weights, x.data(), T, {}, hidden.data(), one_thread());
    for (std::size_t i = 0; i < T * H; ++i)
        hidden[i] = static_cast<float>(activated(activation, static_cast<double>(hidden[i]) + (adds ? bias[i % H] : 0.0f)));
    linear(kernels, second.weights, hidden.data(), T, {}, product.data(), one_thread());
    std::vector<double> expected(T * N);
    for (std::size_t i = 0; i < T * N; ++i) expected[i] = static_cast<double>(product[i]) + (adds ? last_bias[i % N] + residual[i] : 0.0f);
    // Numbers between two codes may go either way: a step of one code in 127.
    expect_all_near("mlp", kernels.name, y, expected, 4e-3);
    linear(kernels, second.weights, hidden.data(), T, added, y.data(), threads(&n_threads));
    expect_all_near("linear, added", kernels.name, y, expected, 1e-6);
}

// Of the result, or of 1 where that is smaller; over the range where GELU is neither 0 nor x, and at the ends.
void test_activations(const Kernels& kernels) {
    std::vector<float> drawn = {0.0f, -0.0f, 1e-30f, -1e-30f, 60.0f, -60.0f, 1e4f, -1e4f};
    for (int i = -12000; i <= 12000; ++i) drawn.push_back(static_cast<float>(i) / 1000.0f);
    for (Activation activation : {Activation::GELU, Activation::SQUARED_RELU}) {
        Buffer<float> x(drawn.size());
        std::copy(drawn.begin(), drawn.end(), x.begin());
        kernels.activate_row(x.data(), x.size(), nullptr, activation);
        for (std::size_t i = 0; i < drawn.size(); ++i) {
            const double expected = activated(activation, drawn[i]);
            expect_near("activation", kernels.name, x[i], expected, 5e-7 * std::fmax(1, std::fabs(expected)));
        }
    }
}

// What is not finite in one row reaches all of its outputs, and no other row.
void test_mlp_of_what_is_not_a_number(const Kernels& kernels, std::size_t T, float value) {
    const std::size_t K = 40, H = 50, N = 9;
    const DrawnLayer first(K, H, 32, 8), second(H, N, 32, 8);
    const auto x = normal(T * K);
    x[(T - 1) * K + 3] = value;
    for (Activation activation : {Activation::GELU, Activation::SQUARED_RELU}) {
        Buffer<float> y(T * N);
        mlp(kernels, {first.weights, second.weights, nullptr, activation}, x.data(), T, {}, y.data(), one_thread());
        for (std::size_t i = 0; i < T * N; ++i)
            expect_near("mlp, not a number", kernels.name, std::isnan(y[i]), i >= (T - 1) * N, 0);
    }
}

void test_all_of_mlp(const Kernels& kernels) {
    test_activations(kernels);
    for (float value : {NAN, INFINITY})
        for (std::size_t T : {1, 3, 18}) test_mlp_of_what_is_not_a_number(kernels, T, value);
    for (Activation activation : {Activation::GELU, Activation::SQUARED_RELU})
        for (std::size_t bits : {8, 4})
            for (std::size_t T : {1, 2, 17, 35})
                for (std::size_t block : {16, 128, 256})
                    for (std::size_t H : {3, 258, 300}) test_mlp(kernels, activation, bits, T, 70, H, 35, block, static_cast<int>(1 + T % 3));
    test_mlp(kernels, Activation::GELU, 8, 70, 700, 530, 145, 256, 2);  // more than a strip, of inputs and of outputs
}

}  // namespace
