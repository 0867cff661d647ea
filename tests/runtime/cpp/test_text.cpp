// Equal to Python's codec, strip, repr and json.dumps.
#include "text.h"

#include "golden.h"

namespace aurora::tests {
namespace {

TEST(Text, Numbers) {
    for (const json& entry : golden("text.json")["numbers"]) {
        const std::string hex = entry[0];
        EXPECT_EQ(text_of_number(std::strtod(hex.c_str(), nullptr)), entry[1].get<std::string>());
    }
}

TEST(Text, Texts) {
    for (const json& entry : golden("text.json")["texts"]) {
        const std::string text = entry["text"];
        EXPECT_EQ(strip(text), entry["strip"].get<std::string>());
        EXPECT_EQ(json_of_text(text), entry["json"].get<std::string>());
        // The characters that Python takes for unprintable are shown here.
        if (text.find("\xE2\x80") == text.npos && text.find("\xEE\x80") == text.npos && text.find("\xE3\x80") == text.npos) {
            EXPECT_EQ(repr(text), entry["repr"].get<std::string>());
        }
    }
    for (const json& entry : golden("text.json")["bytes"]) EXPECT_EQ(repr_of_bytes(from_hex(entry[0])), entry[1].get<std::string>());
}

TEST(Text, DecodesInPiecesAsPython) {
    for (const json& entry : golden("text.json")["decoded"]) {
        const std::string bytes = from_hex(entry["hex"]);
        Utf8Decoder decoder;
        std::vector<std::string> pieces;
        std::string joined;
        for (const char byte : bytes) joined += pieces.emplace_back(decoder.push({&byte, 1}));
        joined += pieces.emplace_back(decoder.flush());
        EXPECT_EQ(json(pieces), entry["pieces"]) << entry["hex"];
        EXPECT_EQ(decode_lossy(bytes), joined);
        EXPECT_EQ(find_invalid_utf8(bytes), entry["invalid"].is_null() ? std::string::npos : entry["invalid"].get<std::size_t>());
        EXPECT_EQ(find_invalid_utf8(joined), std::string::npos);
    }
}

TEST(Text, Characters) {
    EXPECT_EQ(count_characters("aé😀"), 3u);
    EXPECT_EQ(first_characters("aé😀", 2), "aé");
    EXPECT_EQ(first_characters("aé", 9), "aé");
}

}  // namespace
}  // namespace aurora::tests
