#include "prompt.h"

#include <string>

#include "error.h"
#include "text.h"

namespace aurora {
namespace {

// CRLF to LF and runs of newlines to one, in the order of the Python side.
std::string collapsed(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool is_crlf = text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n';
        if (is_crlf) continue;
        if (text[i] == '\n' && !result.empty() && result.back() == '\n') continue;
        result += text[i];
    }
    return result;
}

// Text without the newlines that would end a turn (World models separate turns by an empty line).
std::string clean(const PromptConfig& config, std::string_view text, const char* what) {
    if (const std::size_t at = find_invalid_utf8(text); at != text.npos)
        throw Error(Status::usage, std::string("the ") + what + " is not UTF-8: byte " + std::to_string(at), "pass valid Unicode text");
    if (strip(text).empty())
        throw Error(Status::usage, std::string("the ") + what + " is empty", "say what you want to know about the video");
    if (!config.collapse_newlines) return std::string(text);
    return std::string(strip(collapsed(text)));
}

}  // namespace

Ids prefix_ids(const PromptConfig& config, const Tokenizer& tokenizer, std::optional<std::string_view> question,
               std::optional<std::string_view> instruction) {
    std::string text = "User: ";
    if (config.sandwich == "duplicate" && question)
        text += clean(config, *question, "question") + "\n";
    else if (config.sandwich != "image_first")
        text += clean(config, instruction.value_or(config.instruction), "instruction") + "\n";
    Ids ids = config.bos ? Ids{END_OF_TEXT} : Ids{};
    const Ids encoded = tokenizer.encode(text);
    ids.insert(ids.end(), encoded.begin(), encoded.end());
    return ids;
}

Ids separator_ids(const PromptConfig& config, const Tokenizer& tokenizer) { return tokenizer.encode(config.frame_separator); }

Ids suffix_ids(const PromptConfig& config, const Tokenizer& tokenizer, std::string_view question) {
    return tokenizer.encode("\n" + clean(config, question, "question") + "\n\nAssistant:");
}

Ids turn_ids(const PromptConfig& config, const Tokenizer& tokenizer, std::string_view question) {
    return tokenizer.encode("\n\nUser: " + clean(config, question, "question") + "\n\nAssistant:");
}

}  // namespace aurora
