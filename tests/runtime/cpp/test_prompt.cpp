// The text around the frames, id by id, equal to Python.
#include "prompt.h"

#include "golden.h"

namespace aurora::tests {
namespace {

PromptConfig config_of(const json& changes) {
    PromptConfig config{"duplicate", "", false, "Describe the video in detail.", true, {0}, {}};
    if (changes.contains("sandwich")) config.sandwich = changes["sandwich"];
    if (changes.contains("frame_separator")) config.frame_separator = changes["frame_separator"];
    config.bos = changes.value("bos", false);
    config.collapse_newlines = changes.value("collapse_newlines", true);
    return config;
}

TEST(Prompt, EqualsPython) {
    const Tokenizer tokenizer = Tokenizer::from_file(root() + "/tests/golden/vocabulary.txt");
    for (const json& entry : golden("tokenizer.json")["prompts"]) {
        const PromptConfig config = config_of(entry["config"]);
        const std::string question = entry["question"];
        json found = {{"config", entry["config"]}, {"question", question}};
        try {
            found["prefix"] = prefix_ids(config, tokenizer, question);
            found["without"] = prefix_ids(config, tokenizer);
            found["separator"] = separator_ids(config, tokenizer);
            found["suffix"] = suffix_ids(config, tokenizer, question);
            found["turn"] = turn_ids(config, tokenizer, question);
        } catch (const Error& error) {
            EXPECT_EQ(error.status(), Status::usage);
            found["message"] = error.what();
        }
        EXPECT_EQ(found, entry);
    }
}

TEST(Prompt, AGivenInstructionReplacesTheConfiguredOne) {
    const Tokenizer tokenizer = Tokenizer::from_file(root() + "/tests/golden/vocabulary.txt");
    const PromptConfig config = config_of({{"sandwich", "split"}});
    EXPECT_EQ(tokenizer.decode(prefix_ids(config, tokenizer, "Why?", "Look.")), "User: Look.\n");
    EXPECT_EQ(refusal([&] { prefix_ids(config, tokenizer, {}, " "); }).message, "the instruction is empty");
    EXPECT_EQ(refusal([&] { suffix_ids(config, tokenizer, "a\xff"); }).message, "the question is not UTF-8: byte 1");
}

}  // namespace
}  // namespace aurora::tests
