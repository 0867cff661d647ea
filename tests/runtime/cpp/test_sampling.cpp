// The same tokens as Python for the same seed; what is refused.
#include "sampling.h"

#include <cmath>
#include <limits>

#include "golden.h"

namespace aurora::tests {
namespace {

SamplingOptions options_of(const json& given) {
    SamplingOptions options;
    options.temperature = given.value("temperature", options.temperature);
    options.top_p = given.value("top_p", options.top_p);
    options.top_k = given.value("top_k", options.top_k);
    options.presence_penalty = given.value("presence_penalty", options.presence_penalty);
    options.frequency_penalty = given.value("frequency_penalty", options.frequency_penalty);
    options.penalty_decay = given.value("penalty_decay", options.penalty_decay);
    options.seed = given.value("seed", options.seed);
    return options;
}

TEST(Sampling, DrawsAsPython) {
    for (const json& entry : golden("sampling.json")["draws"]) {
        Sampler sampler(options_of(entry["options"]));
        const auto n = entry["size"].get<std::int64_t>(), divisor = entry["divisor"].get<std::int64_t>(), modulus = entry["modulus"].get<std::int64_t>();
        std::vector<float> logits(static_cast<std::size_t>(n));
        std::vector<std::int32_t> tokens;
        for (std::int64_t step = 0; step < static_cast<std::int64_t>(entry["tokens"].size()); ++step) {
            for (std::int64_t i = 0; i < n; ++i)
                logits[static_cast<std::size_t>(i)] =
                    static_cast<float>(static_cast<double>((i * 7919 + step * 104729) % 65521 % modulus) / static_cast<double>(divisor));
            tokens.push_back(sampler.next(logits.data(), logits.size()));
        }
        EXPECT_EQ(json(tokens), entry["tokens"]) << entry["options"] << " " << n << " " << modulus;
    }
}

TEST(Sampling, Generator) {
    SplitMix64 random(1234567);
    for (const json& expected : golden("sampling.json")["splitmix64"]) EXPECT_EQ(std::to_string(random.next_uint64()), expected.get<std::string>());
}

TEST(Sampling, BadOptionsAreRefused) {
    for (const json& entry : golden("sampling.json")["refused"]) {
        const Refusal refused = refusal([&] { Sampler sampler(options_of(entry["options"])); });
        EXPECT_EQ(refused.message, entry["message"].get<std::string>());
        EXPECT_EQ(refused.status, Status::usage);
    }
    SamplingOptions options;
    options.temperature = std::nan("");
    EXPECT_EQ(refusal([&] { Sampler sampler(options); }).message, "temperature is nan; it must be a number 0 or more");
    options.temperature = HUGE_VAL;
    EXPECT_EQ(refusal([&] { Sampler sampler(options); }).message, "temperature is inf; it must be a number 0 or more");
}

TEST(Sampling, BrokenLogitsAreRefused) {
    const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
    const std::vector<std::pair<std::vector<float>, std::string>> cases = {
        {{0, nan, 1}, "1 NaN and 0 infinite values among 3"},
        {{nan, 0, 1}, "1 NaN and 0 infinite values among 3"},
        {{inf, nan, inf}, "1 NaN and 2 infinite values among 3"},
        {{0, inf}, "0 NaN and 1 infinite values among 2"},
        {{-inf, -inf}, "only -inf among 2"},
    };
    for (const auto& [logits, found] : cases)
        for (const double temperature : {0.0, 1.0}) {
            SamplingOptions options;
            options.temperature = temperature;
            const Refusal refused = refusal([&, &values = logits] { Sampler(options).next(values.data(), values.size()); });
            EXPECT_EQ(refused.message, "the language model returned logits with " + found);
            EXPECT_EQ(refused.status, Status::integrity);
        }
    EXPECT_EQ(refusal([] { Sampler().next(nullptr, 0); }).message, "logits must have shape (V,), not (0,)");
}

TEST(Sampling, ForbiddenTokensAreNeverDrawn) {
    const float inf = std::numeric_limits<float>::infinity();
    const std::vector<float> logits = {-inf, 0, -inf, 0, -inf};
    SamplingOptions options;
    options.temperature = 1;
    Sampler sampler(options);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(sampler.next(logits.data(), logits.size()) % 2, 1);
}

}  // namespace
}  // namespace aurora::tests
