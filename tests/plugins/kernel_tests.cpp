// The native kernels on raw memory, every instruction set of this machine, against the same formulas in double.
// Buffers are heap blocks of exactly the size needed, or one float off their alignment: a sanitizer sees every step past
// an end. Prints what fails, and ends with exit code 1 then.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../plugins/attention/attention_cpu.h"
#include "../../plugins/linear/linear_cpu.h"
#include "../../plugins/merge/merge_cpu.h"
#include "../../plugins/mix/mix_cpu.h"
#include "../../plugins/wkv/wkv_cpu.h"

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

struct WkvCase {
    std::size_t B, T, H, N;
    float log_decay;  // NaN: drawn
    bool in_place;
    int n_threads;
};

void test_wkv(const Kernels& kernels, const WkvCase& c, bool is_6) {
    const std::size_t n = c.B * c.T * c.H * c.N, n_state = c.B * c.H * c.N * c.N;
    const auto r = normal(n), k = normal(n), v = normal(n), a = normal(n, 0.1f), b = normal(n, 0.1f), u = normal(c.H * c.N);
    auto w = normal(n);
    for (float& value : w) value = std::isnan(c.log_decay) ? -std::exp(2 * value) : c.log_decay;
    const auto state = normal(n_state);
    std::vector<double> s(state.begin(), state.end()), y(n);
    for (std::size_t q = 0; q < c.B * c.H; ++q) {
        double* S = &s[q * c.N * c.N];
        for (std::size_t t = 0; t < c.T; ++t) {
            const std::size_t at = ((q / c.H * c.T + t) * c.H + q % c.H) * c.N;
            for (std::size_t j = 0; j < c.N; ++j) {
                double removed = 0, total = 0;
                for (std::size_t i = 0; i < c.N; ++i) removed += is_6 ? 0.0 : a[at + i] * S[i * c.N + j];
                for (std::size_t i = 0; i < c.N; ++i) {
                    const double own = static_cast<double>(k[at + i]) * v[at + j], before = S[i * c.N + j];
                    double& after = S[i * c.N + j];
                    after = std::exp(static_cast<double>(w[at + i])) * before + own + (is_6 ? 0.0 : b[at + i] * removed);
                    total += r[at + i] * (is_6 ? before + u[q % c.H * c.N + i] * own : after);
                }
                y[at + j] = total;
            }
        }
    }
    Buffer<float> output(n), copy(n_state), next(n_state);
    std::copy(state.begin(), state.end(), copy.begin());
    WkvHead all{};
    all.receptance = r.data(), all.key = k.data(), all.value = v.data(), all.log_decay = w.data();
    if (is_6)
        all.bonus = u.data();
    else
        all.removal = a.data(), all.replacement = b.data();
    all.state = copy.data();
    all.next_state = c.in_place ? copy.data() : next.data();
    all.output = output.data();
    int n_threads = c.n_threads;
    wkv(kernels, {c.B, c.T, c.H, c.N}, all, threads(&n_threads));
    const char* name = is_6 ? "wkv6" : "wkv7";
    // What RWKV-7 removes from a state is of the state: an error is carried on, and may grow.
    const double bound = is_6 ? 2e-6 : 5e-6;
    expect_all_near(name, kernels.name, output, y, bound);
    expect_all_near(name, kernels.name, c.in_place ? copy : next, s, bound);
    if (!c.in_place) expect_all_near("state that is only read", kernels.name, copy, std::vector<float>(state.begin(), state.end()), 0);
}

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

#include "mlp_tests.h"

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

int main() {
    std::size_t n_levels;
    const Kernels* const* levels = all_levels(&n_levels);
    for (std::size_t i = 0; i < n_levels; ++i) {
        const Kernels& kernels = *levels[i];
        if (!kernels.is_supported()) {
            std::printf("%s: not on this machine\n", kernels.name);
            continue;
        }
        const int before = n_checks;
        for (bool is_6 : {true, false}) {
            for (bool in_place : {false, true}) {
                for (std::size_t N : {1, 5, 8, 16, 20, 64, 100, 256}) test_wkv(kernels, {1, 3, 2, N, NAN, in_place, 2}, is_6);
                test_wkv(kernels, {2, 17, 3, 64, NAN, in_place, 3}, is_6);
                for (float log_decay : {0.0f, -1e-30f, -87.4f, -1e4f, -INFINITY}) test_wkv(kernels, {1, 2, 1, 64, log_decay, in_place, 1}, is_6);
            }
        }
        for (std::size_t block : {16, 32, 64, 128, 256})
            for (std::size_t T : {1, 2, 5, 14, 15, 29})
                for (std::size_t K : {1, 100, 256, 1300})
                    for (std::size_t N : {1, 16, 35})
                        for (std::size_t bits : {8, 4}) test_linear(kernels, bits, T, K, N, block, static_cast<int>(1 + T % 3));
        for (std::size_t block : {32, 128})  // more than a panel and a strip
            for (std::size_t bits : {8, 4}) test_linear(kernels, bits, 70, 700, 130, block, 2);
        test_linear(kernels, 8, 18, 4096, 20, 128, 2);  // rows that would fall on each other in the cache are copied
        test_all_of_mlp(kernels);
        test_attention(kernels, 1, 1, 1, 1, 1);
        test_attention(kernels, 2, 19, 3, 10, 2);
        test_attention(kernels, 1, 130, 2, 64, 3);
        test_attention(kernels, 1, 530, 1, 8, 1);
        test_merges(kernels);
        for (std::size_t E : {3, 20, 64, 600})
            for (const Tokens& tokens : {Tokens{1, 1, E}, Tokens{1, 2, E}, Tokens{2, 1, E}, Tokens{3, 19, E}}) {
                for (bool is_int8 : {false, true})
                    test_time_mix(kernels, tokens, 3, 5, static_cast<int>(tokens.n_rows() % 3) + 1, is_int8);
                test_channel_mix(kernels, tokens, static_cast<int>(tokens.n_rows() % 3) + 1);
            }
        for (bool is_int8 : {false, true})  // chunks of many rows, and more inputs than are multiplied at once
            test_time_mix(kernels, {1, 260, 300}, 9, 40, 2, is_int8);
        std::printf("%s: %d values compared\n", kernels.name, n_checks - before);
    }
    if (n_failures) std::printf("%d of %d differ\n", n_failures, n_checks);
    return n_failures ? 1 : 0;
}
