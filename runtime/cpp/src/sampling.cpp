#include "sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "error.h"
#include "text.h"

namespace aurora {
namespace {

void check_number(const char* name, double value, bool is_in_range, const char* expected) {
    if (std::isfinite(value) && is_in_range) return;
    const std::string given = std::isnan(value) ? "nan" : std::isinf(value) ? (value > 0 ? "inf" : "-inf") : text_of_number(value);
    throw Error(Status::usage, std::string(name) + " is " + given + "; it must be a number " + expected);
}

SamplingOptions checked(const SamplingOptions& o) {
    check_number("temperature", o.temperature, o.temperature >= 0, "0 or more");
    check_number("top_p", o.top_p, o.top_p > 0 && o.top_p <= 1, "over 0 and at most 1");
    check_number("presence_penalty", o.presence_penalty, std::fabs(o.presence_penalty) <= 100, "from -100 to 100");
    check_number("frequency_penalty", o.frequency_penalty, std::fabs(o.frequency_penalty) <= 100, "from -100 to 100");
    check_number("penalty_decay", o.penalty_decay, o.penalty_decay >= 0 && o.penalty_decay <= 1, "from 0 to 1");
    if (o.top_k < 0)
        throw Error(Status::usage, "top_k is " + std::to_string(o.top_k) + "; it must be a whole number 0 or more");
    return o;
}

// The first of the largest, after a look at all: NaN, +inf and nothing but -inf are refused.
std::size_t checked_argmax(const float* logits, std::size_t n) {
    // In independent lanes, which is several times as fast: this is most of what a token costs beside the engine.
    constexpr std::size_t N_LANES = 8;
    constexpr float LOWEST = -std::numeric_limits<float>::infinity(), HIGHEST = std::numeric_limits<float>::max();
    std::array<float, N_LANES> most;
    most.fill(LOWEST);
    std::array<unsigned, N_LANES> n_bad{};  // NaN and +inf
    for (std::size_t i = 0; i + N_LANES <= n; i += N_LANES)
        for (std::size_t j = 0; j < N_LANES; ++j) {
            const float logit = logits[i + j];
            most[j] = logit > most[j] ? logit : most[j];
            n_bad[j] += !(logit <= HIGHEST);
        }
    for (std::size_t i = n / N_LANES * N_LANES; i < n; ++i) {
        most[0] = logits[i] > most[0] ? logits[i] : most[0];
        n_bad[0] += !(logits[i] <= HIGHEST);
    }
    const float highest = *std::max_element(most.begin(), most.end());
    if (highest > LOWEST && std::all_of(n_bad.begin(), n_bad.end(), [](unsigned count) { return count == 0; }))
        return static_cast<std::size_t>(std::find(logits, logits + n, highest) - logits);

    std::size_t n_nan = 0, n_infinite = 0;
    for (std::size_t i = 0; i < n; ++i) {
        n_nan += std::isnan(logits[i]);
        n_infinite += std::isinf(logits[i]) && logits[i] > 0;
    }
    const std::string found = n_nan || n_infinite ? std::to_string(n_nan) + " NaN and " + std::to_string(n_infinite) + " infinite values"
                                                  : "only -inf";
    throw Error(Status::integrity, "the language model returned logits with " + found + " among " + std::to_string(n),
                "`aurora-export check` compares the bundle with its reference; in fp16, try --precision fp32");
}

}  // namespace

std::uint64_t SplitMix64::next_uint64() {
    state_ += 0x9E3779B97F4A7C15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

Sampler::Sampler(const SamplingOptions& options)
    : options_(checked(options)),
      random_(options.seed),
      is_penalised_(options.presence_penalty != 0 || options.frequency_penalty != 0) {}

std::int32_t Sampler::next(const float* logits, std::size_t n_logits) {
    if (!logits || !n_logits || n_logits > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()))
        throw Error(Status::usage, "logits must have shape (V,), not (" + std::to_string(n_logits) + ",)");
    auto token = static_cast<std::int32_t>(checked_argmax(logits, n_logits));
    const bool changes = is_penalised_ && !counts_.empty();
    if (options_.temperature != 0 || changes) {
        scores_.assign(logits, logits + n_logits);
        if (changes)
            for (const auto& [id, count] : counts_)
                if (static_cast<std::size_t>(id) < n_logits)
                    scores_[static_cast<std::size_t>(id)] -= options_.presence_penalty + count * options_.frequency_penalty;
        token = options_.temperature == 0
                    ? static_cast<std::int32_t>(std::max_element(scores_.begin(), scores_.end()) - scores_.begin())
                    : draw();
    }
    if (is_penalised_) {
        for (auto& [id, count] : counts_) count *= options_.penalty_decay;
        const auto found = std::find_if(counts_.begin(), counts_.end(), [&](const auto& entry) { return entry.first == token; });
        if (found == counts_.end())
            counts_.emplace_back(token, 1.0);
        else
            found->second += 1.0;
    }
    return token;
}

std::int32_t Sampler::draw() {
    const double most = *std::max_element(scores_.begin(), scores_.end());
    for (double& score : scores_) score -= most;
    kept_.resize(scores_.size());
    std::iota(kept_.begin(), kept_.end(), 0);
    if (options_.top_p < 1) keep_nucleus();
    if (options_.top_k > 0 && static_cast<std::size_t>(options_.top_k) < kept_.size()) keep_most_likely();
    // (p / p_max)^(1 / T), which unlike p^(1 / T) cannot underflow to nothing at a low T.
    cumulative_.resize(kept_.size());
    double total = 0;
    for (std::size_t i = 0; i < kept_.size(); ++i)
        cumulative_[i] = total += std::exp(scores_[static_cast<std::size_t>(kept_[i])] / options_.temperature);
    const double target = random_.next_float() * total;
    const auto at = std::upper_bound(cumulative_.begin(), cumulative_.end(), target) - cumulative_.begin();
    return kept_[static_cast<std::size_t>(at)];
}

// The tokens at least as likely as the one with which the most likely ones reach top_p.
void Sampler::keep_nucleus() {
    weights_.resize(scores_.size());
    std::transform(scores_.begin(), scores_.end(), weights_.begin(), [](double score) { return std::exp(score); });
    cumulative_ = weights_;
    std::sort(cumulative_.begin(), cumulative_.end(), std::greater<>());
    double total = 0, reached = 0;
    for (const double weight : cumulative_) total += weight;
    const double target = options_.top_p * total;
    double cutoff = cumulative_.back();
    for (const double weight : cumulative_) {
        reached += weight;
        if (reached >= target) {
            cutoff = weight;
            break;
        }
    }
    kept_.clear();
    for (std::size_t i = 0; i < weights_.size(); ++i)
        if (weights_[i] >= cutoff) kept_.push_back(static_cast<std::int32_t>(i));
}

// top_k of those kept; of equals the lower ids stay.
void Sampler::keep_most_likely() {
    const auto k = static_cast<std::ptrdiff_t>(options_.top_k);
    const auto is_before = [&](std::int32_t a, std::int32_t b) {
        const double score_a = scores_[static_cast<std::size_t>(a)], score_b = scores_[static_cast<std::size_t>(b)];
        return score_a != score_b ? score_a > score_b : a < b;
    };
    std::nth_element(kept_.begin(), kept_.begin() + k, kept_.end(), is_before);
    kept_.resize(static_cast<std::size_t>(k));
    std::sort(kept_.begin(), kept_.end());
}

}  // namespace aurora
