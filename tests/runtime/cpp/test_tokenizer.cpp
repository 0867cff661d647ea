// Equal to Python on golden strings and on 100,000 random ones of each vocabulary; hostile vocabulary files.
#include "tokenizer.h"

#include "golden.h"
#include "sha256.h"
#include "stop_texts.h"

namespace aurora::tests {
namespace {

std::vector<std::string> token_list(const Tokenizer& tokenizer) {
    std::vector<std::string> tokens;
    for (std::int32_t id = 1; id < tokenizer.vocabulary_size(); ++id) tokens.emplace_back(tokenizer.bytes_of(id));
    return tokens;
}

const Tokenizer& awkward() {
    static const Tokenizer tokenizer = Tokenizer::from_file(root() + "/tests/golden/vocabulary.txt");
    return tokenizer;
}

// batch_digest of tests/golden/golden_tokenizer.py.
std::string batch_digest(const Tokenizer& tokenizer, const std::vector<std::string>& tokens, std::uint64_t seed, int n_texts) {
    Sha256 digest;
    SplitMix64 random(seed);
    while (n_texts--) {
        const std::string text = random_text(random, tokens);
        try {
            const Ids ids = tokenizer.encode_bytes(text);
            const std::string decoded = tokenizer.decode(ids);
            digest.update(ids.data(), ids.size() * sizeof ids[0]);
            digest.update(decoded.data(), decoded.size());
        } catch (const Error& error) {
            const std::string message = error.what();
            digest.update(message.data(), message.find(','));
        }
    }
    return digest.hex();
}

TEST(Tokenizer, EqualsPythonOnRandomTexts) {
    const json recorded = golden("tokenizer.json");
    for (const json& entry : recorded["batches"]) {
        const Tokenizer tokenizer = Tokenizer::from_file(root() + "/" + entry["vocabulary"].get<std::string>());
        const std::vector<std::string> tokens = token_list(tokenizer);
        std::uint64_t seed = 0;
        for (const json& expected : entry["sha256"])
            ASSERT_EQ(batch_digest(tokenizer, tokens, seed++, recorded["texts_per_batch"]), expected.get<std::string>()) << entry["vocabulary"] << " " << seed;
    }
}

TEST(Tokenizer, Examples) {
    for (const json& example : golden("tokenizer.json")["examples"]) {
        const Ids ids = awkward().encode_bytes(from_hex(example["hex"]));
        EXPECT_EQ(json(ids), example["ids"]);
        EXPECT_EQ(awkward().decode_bytes(ids), from_hex(example["hex"]));
        StreamDecoder decoder(awkward());
        std::vector<std::string> pieces;
        for (const std::int32_t id : ids) pieces.push_back(decoder.push(id));
        pieces.push_back(decoder.flush());
        EXPECT_EQ(json(pieces), example["pieces"]);
    }
}

TEST(Tokenizer, LinesOfAVocabularyFile) {
    for (const json& entry : golden("tokenizer.json")["lines"]) {
        const std::string data = "1 'a' 1\n" + entry["line"].get<std::string>() + "\n9 'z' 1\n";
        const Refusal refused = refusal([&] { Tokenizer::from_bytes(data); });
        EXPECT_EQ(refused.message, entry.value("message", "")) << entry["line"];
        if (!refused.message.empty()) {
            EXPECT_EQ(refused.status, Status::integrity);
            EXPECT_EQ(refused.hint, "a line is `<id> <literal> <byte length>`; copy the vocabulary file from the checkpoint again");
            continue;
        }
        const Tokenizer tokenizer = Tokenizer::from_bytes(data);
        EXPECT_EQ(tokenizer.bytes_of(entry["id"]), from_hex(entry["hex"]));
    }
}

TEST(Tokenizer, LineEnds) {
    for (const std::string end : {"\n", "\r\n"})
        for (const bool final : {true, false}) {
            const Tokenizer tokenizer = Tokenizer::from_bytes("1 'a' 1" + end + "3 b'\\xc3' 1" + end + "9 ' ' 1" + (final ? end : ""));
            EXPECT_EQ(tokenizer.vocabulary_size(), 10);
            EXPECT_EQ(tokenizer.encode("a a"), (Ids{1, 9, 1}));
        }
    EXPECT_EQ(refusal([] { Tokenizer::from_bytes("1 'a' 1\n\n"); }).message, "vocabulary, line 2: it needs three fields: id, literal, byte length");
}

TEST(Tokenizer, AFileThatIsNone) {
    const Folder folder;
    EXPECT_EQ(refusal([&] { Tokenizer::from_file(folder / "v.txt"); }).message,
              "cannot read the vocabulary file " + (folder / "v.txt") + ": No such file or directory");
    write_file(folder / "v.txt", "");
    EXPECT_EQ(refusal([&] { Tokenizer::from_file(folder / "v.txt"); }).message, (folder / "v.txt") + " is empty");
    std::filesystem::resize_file(folder / "v.txt", std::uintmax_t{1} << 40);  // a terabyte that is not there
    EXPECT_EQ(refusal([&] { Tokenizer::from_file(folder / "v.txt"); }).message, (folder / "v.txt") + " is over 16 MiB, the limit of a vocabulary file");
    EXPECT_EQ(refusal([&] { Tokenizer::from_file(folder.path()); }).status, Status::integrity);
    EXPECT_EQ(refusal([] { Tokenizer::from_bytes("1 'a' 1\n2 '\xff' 1\n"); }).message, "vocabulary, line 2: byte 3 is not UTF-8");
}

TEST(Tokenizer, AnIndexThatIsTooLarge) {
    // Tokens with bytes 0 and 255 at each depth: rows of 256 slots for every node.
    std::string file;
    SplitMix64 random(0);
    for (int id = 1; id <= 60'000; ++id) {
        std::string token;
        for (int bit = 0; bit < 17; ++bit) token += id >> bit & 1 ? "\\xff" : "\\x00";
        file += std::to_string(id) + " b'" + token + "' 17\n";
    }
    EXPECT_EQ(refusal([&] { Tokenizer::from_bytes(file); }).message, "the vocabulary's index needs over 4194304 places, the limit");
}

TEST(Tokenizer, WhatCannotBeEncoded) {
    const Tokenizer tokenizer = Tokenizer::from_bytes("1 'a' 1\n2 'bb' 2\n");
    EXPECT_EQ(refusal([&] { tokenizer.encode("abbé"); }).message, "the vocabulary has no token for byte 0xc3, near 'abbé'");
    EXPECT_EQ(refusal([&] { tokenizer.encode("ab"); }).message, "the vocabulary has no token for byte 0x62, near 'ab'");
    EXPECT_EQ(refusal([&] { tokenizer.encode("a\xed\xa0\x80"); }).message, "the text is not UTF-8: byte 1");
    EXPECT_EQ(tokenizer.encode(""), Ids{});
}

TEST(Tokenizer, IdsWithoutALine) {
    EXPECT_EQ(awkward().decode({0}), "");
    EXPECT_EQ(awkward().decode({98, 65535, 99}), "a\xEF\xBF\xBD" "b");
    EXPECT_EQ(awkward().bytes_of(2147483647), "\xEF\xBF\xBD");
    EXPECT_EQ(refusal([] { awkward().decode({-1}); }).message, "token id -1 is negative");
}

}  // namespace
}  // namespace aurora::tests
