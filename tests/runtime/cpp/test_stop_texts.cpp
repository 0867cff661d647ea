// Stop texts never reach the output, however the pieces cut them; equal to Python.
#include "stop_texts.h"

#include "golden.h"

namespace aurora::tests {
namespace {

TEST(StopTexts, EqualsPython) {
    for (const json& entry : golden("tokenizer.json")["stops"]) {
        StopTexts stops(entry["stops"].get<std::vector<std::string>>());
        json shown = json::array();
        for (const json& piece : entry["pieces"]) {
            const StopTexts::Shown part = stops.push(piece);
            shown.push_back({part.text, part.stopped});
            if (part.stopped) break;
        }
        EXPECT_EQ(shown, entry["shown"]) << entry["stops"];
        EXPECT_EQ(stops.flush(), entry["flush"].get<std::string>());
    }
}

TEST(StopTexts, AnyCutGivesTheSame) {
    SplitMix64 random(0);
    for (int round = 0; round < 2000; ++round) {
        std::string text, stop, shown;
        for (int i = 0; i < 12; ++i) text += "ab"[random.next_uint64() % 2];
        for (std::uint64_t n = 1 + random.next_uint64() % 5; n--;) stop += "ab"[random.next_uint64() % 2];
        StopTexts stops({stop});
        bool stopped = false;
        for (std::size_t at = 0, n; at < text.size() && !stopped; at += n) {
            n = 1 + random.next_uint64() % 4;
            const StopTexts::Shown part = stops.push(text.substr(at, n));
            shown += part.text;
            stopped = part.stopped;
        }
        shown += stops.flush();
        EXPECT_EQ(stopped, text.find(stop) != text.npos);
        EXPECT_EQ(shown, text.substr(0, text.find(stop)));
    }
}

TEST(StopTexts, BadOnesAreRefused) {
    EXPECT_EQ(refusal([] { StopTexts({"a", ""}); }).message, "a stop text is empty");
    EXPECT_EQ(refusal([] { StopTexts({"a\xff"}); }).message, "a stop text is not UTF-8: byte 1");
}

}  // namespace
}  // namespace aurora::tests
