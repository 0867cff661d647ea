// What stands between the linear layers of an RWKV-6 block: part of kernel_tests.cpp.
#pragma once

#include "../../plugins/mix/mix_cpu.h"
#include "kernel_checks.h"

namespace {

using Doubles = std::vector<double>;

// The norm of n numbers from `x`, in double.
Doubles normed(const double* x, std::size_t n, const float* weight, const float* bias, double epsilon) {
    double mean = 0, variance = 0;
    for (std::size_t i = 0; i < n; ++i) mean += x[i] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) variance += (x[i] - mean) * (x[i] - mean) / static_cast<double>(n);
    Doubles z(n);
    for (std::size_t i = 0; i < n; ++i) z[i] = (x[i] - mean) / std::sqrt(variance + epsilon) * weight[i] + bias[i];
    return z;
}

// x (n) times weights (n, columns), from column to column.
Doubles product(const Doubles& x, const float* weights, std::size_t columns) {
    Doubles y(columns);
    for (std::size_t i = 0; i < x.size(); ++i)
        for (std::size_t j = 0; j < columns; ++j) y[j] += x[i] * weights[i * columns + j];
    return y;
}

// Matrices (rows, columns), rounded to 8 bits with a scale for each column; `weights` become what the codes stand for.
class Codes {
public:
    Codes(const Buffer<float>& weights, std::size_t n_matrices, std::size_t columns)
        : codes_(weights.size()), scales_(n_matrices * columns), size_(weights.size() / n_matrices), columns_(columns) {
        std::fill(scales_.begin(), scales_.end(), 0.0f);
        const auto scale_of = [&](std::size_t i) -> float& { return scales_[i / size_ * columns + i % columns]; };
        for (std::size_t i = 0; i < weights.size(); ++i) scale_of(i) = std::fmax(scale_of(i), std::fabs(weights[i]) / 127);
        for (std::size_t i = 0; i < weights.size(); ++i) {
            codes_[i] = static_cast<std::int8_t>(std::nearbyint(weights[i] / scale_of(i)));
            weights[i] = static_cast<float>(codes_[i]) * scale_of(i);
        }
    }
    Matrix matrix(std::size_t i = 0) const { return {nullptr, codes_.data() + i * size_, scales_.data() + i * columns_}; }

private:
    Buffer<std::int8_t> codes_;
    Buffer<float> scales_;
    std::size_t size_, columns_;
};

void test_time_mix(const Kernels& kernels, const Tokens& tokens, std::size_t m, std::size_t d, int n_threads, bool is_int8) {
    const std::size_t n = tokens.n_rows(), E = tokens.width;
    const float scale = 1 / std::sqrt(static_cast<float>(E));
    const auto x = normal(n * E), shift = normal(tokens.n_sequences * E), weight = normal(E), bias = normal(E);
    const auto mix_x = normal(E), mixes = normal(N_MIXES * E), mix_in = normal(E * N_MIXES * m, scale);
    const auto mix_out = normal(N_MIXES * m * E), decay = normal(E);
    const auto decay_in = normal(E * d, scale), decay_out = normal(d * E, 0.5f);
    Buffer<float> outputs[] = {Buffer<float>(n * E), Buffer<float>(n * E), Buffer<float>(n * E), Buffer<float>(n * E)};
    Buffer<float> log_decay(n * E), next_shift(tokens.n_sequences * E);
    TimeMix mix{};
    mix.x = x.data(), mix.shift = shift.data(), mix.norm_weight = weight.data(), mix.norm_bias = bias.data();
    mix.epsilon = 1e-5f, mix.mix_x = mix_x.data(), mix.mix_rank = m, mix.decay_rank = d;
    mix.decay = decay.data();
    std::vector<Codes> codes;
    if (is_int8) {
        codes.emplace_back(mix_in, 1, N_MIXES * m), codes.emplace_back(mix_out, N_MIXES, E);
        codes.emplace_back(decay_in, 1, d), codes.emplace_back(decay_out, 1, E);
        mix.mix_in = codes[0].matrix(), mix.decay_in = codes[2].matrix(), mix.decay_out = codes[3].matrix();
        for (std::size_t j = 0; j < N_MIXES; ++j) mix.mix_out[j] = codes[1].matrix(j);
    } else {
        const auto floats = [](const float* weights) { return Matrix{weights, nullptr, nullptr}; };
        mix.mix_in = floats(mix_in.data()), mix.decay_in = floats(decay_in.data()), mix.decay_out = floats(decay_out.data());
        for (std::size_t j = 0; j < N_MIXES; ++j) mix.mix_out[j] = floats(&mix_out[j * m * E]);
    }
    mix.log_decay = log_decay.data(), mix.next_shift = next_shift.data();
    for (std::size_t j = 0; j < N_MIXES; ++j) {
        mix.mixes[j] = &mixes[j * E];
        if (j > 0) mix.mixed[j] = outputs[j - 1].data();
    }
    time_mix_inputs(kernels, tokens, mix, threads(&n_threads));
    Doubles previous, mixed[N_MIXES], log_decays, last;
    for (std::size_t row = 0; row < n; ++row) {
        if (row % tokens.n_tokens == 0) previous.assign(&shift[row / tokens.n_tokens * E], &shift[row / tokens.n_tokens * E] + E);
        const Doubles z = normed(Doubles(&x[row * E], &x[row * E] + E).data(), E, weight.data(), bias.data(), 1e-5);
        const auto mixture = [&](const float* share, const Doubles& extra) {
            Doubles result(E);
            for (std::size_t i = 0; i < E; ++i) result[i] = z[i] + (previous[i] - z[i]) * (share[i] + extra[i]);
            return result;
        };
        Doubles hidden = product(mixture(mix_x.data(), Doubles(E)), mix_in.data(), N_MIXES * m);
        for (double& value : hidden) value = std::tanh(value);
        Doubles decayed;
        for (std::size_t j = 0; j < N_MIXES; ++j) {
            const Doubles mine(hidden.begin() + static_cast<std::ptrdiff_t>(j * m), hidden.begin() + static_cast<std::ptrdiff_t>((j + 1) * m));
            const Doubles result = mixture(&mixes[j * E], product(mine, &mix_out[j * m * E], E));
            mixed[j].insert(mixed[j].end(), result.begin(), result.end());
            if (j == 0) decayed = product(result, decay_in.data(), d);
        }
        for (double& value : decayed) value = std::tanh(value);
        decayed = product(decayed, decay_out.data(), E);
        for (std::size_t i = 0; i < E; ++i) log_decays.push_back(-std::exp(decay[i] + decayed[i]));
        if ((row + 1) % tokens.n_tokens == 0) last.insert(last.end(), z.begin(), z.end());
        previous = z;
    }
    for (std::size_t j = 1; j < N_MIXES; ++j) expect_all_near("time mix", kernels.name, outputs[j - 1], mixed[j], 1e-4);
    for (std::size_t i = 0; i < n * E; ++i) expect_near("decay", kernels.name, log_decay[i], log_decays[i], 1e-4 - 1e-3 * log_decays[i]);
    expect_all_near("next shift", kernels.name, next_shift, last, 1e-4);
}

void test_channel_mix(const Kernels& kernels, const Tokens& tokens, int n_threads) {
    const std::size_t n = tokens.n_rows(), E = tokens.width;
    const auto x = normal(n * E), update = normal(n * E), shift = normal(tokens.n_sequences * E);
    const auto weight = normal(E), bias = normal(E), mix_key = normal(E), mix_receptance = normal(E);
    Buffer<float> total(n * E), key(n * E), receptance(n * E), next_shift(tokens.n_sequences * E), y(n * E);
    ChannelMix mix{};
    mix.x = x.data(), mix.update = update.data(), mix.shift = shift.data(), mix.norm_weight = weight.data();
    mix.norm_bias = bias.data(), mix.epsilon = 1e-5f, mix.mix_key = mix_key.data(), mix.mix_receptance = mix_receptance.data();
    mix.sum = total.data(), mix.key = key.data(), mix.receptance = receptance.data(), mix.next_shift = next_shift.data();
    channel_mix_inputs(kernels, tokens, mix, threads(&n_threads));
    Doubles previous, sums(n * E), keys, receptances, last;
    for (std::size_t i = 0; i < n * E; ++i) sums[i] = static_cast<double>(x[i]) + update[i];
    for (std::size_t row = 0; row < n; ++row) {
        if (row % tokens.n_tokens == 0) previous.assign(&shift[row / tokens.n_tokens * E], &shift[row / tokens.n_tokens * E] + E);
        const Doubles z = normed(&sums[row * E], E, weight.data(), bias.data(), 1e-5);
        for (std::size_t i = 0; i < E; ++i) {
            keys.push_back(z[i] + (previous[i] - z[i]) * mix_key[i]);
            receptances.push_back(z[i] + (previous[i] - z[i]) * mix_receptance[i]);
        }
        if ((row + 1) % tokens.n_tokens == 0) last.insert(last.end(), z.begin(), z.end());
        previous = z;
    }
    expect_all_near("sum", kernels.name, total, sums, 1e-6);
    expect_all_near("channel mix key", kernels.name, key, keys, 1e-4);
    expect_all_near("channel mix receptance", kernels.name, receptance, receptances, 1e-4);
    expect_all_near("next shift", kernels.name, next_shift, last, 1e-4);
    relu_square(kernels, x.data(), n * E, y.data(), threads(&n_threads));
    for (std::size_t i = 0; i < n * E; ++i) expect_near("relu square", kernels.name, y[i], x[i] > 0 ? x[i] * x[i] : 0, 1e-5);
    channel_mix_output(kernels, x.data(), key.data(), update.data(), n * E, y.data(), threads(&n_threads));
    for (std::size_t i = 0; i < n * E; ++i)
        expect_near("sigmoid gate", kernels.name, y[i], x[i] + update[i] / (1 + std::exp(-static_cast<double>(key[i]))), 1e-5);
    head_norm_gate(kernels, tokens, E, x.data(), key.data(), weight.data(), bias.data(), 1e-3f, y.data(), threads(&n_threads));
    Doubles gated(n * E);
    for (std::size_t row = 0; row < n; ++row) {
        const Doubles z = normed(Doubles(&x[row * E], &x[row * E] + E).data(), E, weight.data(), bias.data(), 1e-3);
        for (std::size_t i = 0; i < E; ++i) {
            const double gate = key[row * E + i];
            gated[row * E + i] = z[i] * gate / (1 + std::exp(-gate));
        }
    }
    expect_all_near("head norm gate", kernels.name, y, gated, 1e-4);
}

}  // namespace
