// From logits to the next token: greedy, or drawn, the same draw in every implementation. Mirrors core/sampling.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace aurora {

// How the next token is chosen. The default is greedy without penalties.
struct SamplingOptions {
    double temperature = 0.0;  // 0: always the most likely token. 1: as the model says
    double top_p = 1.0;        // only the most likely tokens that together reach this probability; 1: all
    std::int64_t top_k = 0;    // only this many of the most likely tokens; 0: all
    double presence_penalty = 0.0;   // taken off the logit of every token already produced
    double frequency_penalty = 0.0;  // taken off once more for each time that it was produced
    double penalty_decay = 0.996;    // factor on all counts at each token
    std::uint64_t seed = 0;
};

// A 64-bit generator of ten lines, so that all languages draw the same (Steele, Lea, Flood 2014).
class SplitMix64 {
public:
    explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

    std::uint64_t next_uint64();

    // Uniform in [0, 1): the upper 53 bits.
    double next_float() { return static_cast<double>(next_uint64() >> 11) * 0x1p-53; }

private:
    std::uint64_t state_;
};

// Chooses the tokens of one answer; remembers what it chose (for the penalties) and where its generator stands.
// Allocates nothing after the first token, but where penalties meet a new one.
class Sampler {
public:
    // Throws Error(usage) for a bad option.
    explicit Sampler(const SamplingOptions& options = {});

    // The next token id. logits: (V), V >= 1, not changed; -inf forbids a token.
    // Throws Error(integrity) for NaN, +inf, or nothing but -inf.
    std::int32_t next(const float* logits, std::size_t n_logits);

private:
    std::int32_t draw();
    void keep_nucleus();
    void keep_most_likely();

    SamplingOptions options_;
    SplitMix64 random_;
    bool is_penalised_;
    std::vector<std::pair<std::int32_t, double>> counts_;
    std::vector<double> scores_, weights_, cumulative_;
    std::vector<std::int32_t> kept_;  // ids, ascending
};

}  // namespace aurora
