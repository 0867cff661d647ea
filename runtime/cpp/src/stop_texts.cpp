#include "stop_texts.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "text.h"

namespace aurora {
namespace {

// Length of the longest end of the text that the stop text begins with. Text and stop text are whole characters, so
// the end is too.
std::size_t overlap(const std::string& text, const std::string& stop) {
    std::size_t n = std::min(text.size(), stop.size() - 1);
    while (n && text.compare(text.size() - n, n, stop, 0, n) != 0) --n;
    return n;
}

}  // namespace

StopTexts::StopTexts(std::vector<std::string> texts) : texts_(std::move(texts)) {
    for (const std::string& text : texts_) {
        if (text.empty())
            throw Error(Status::usage, "a stop text is empty", "leave it out: an answer also ends without stop texts");
        if (const std::size_t at = find_invalid_utf8(text); at != text.npos)
            throw Error(Status::usage, "a stop text is not UTF-8: byte " + std::to_string(at), "pass valid Unicode text");
    }
}

StopTexts::Shown StopTexts::push(const std::string& piece) {
    std::string text = std::exchange(held_, {}) + piece;
    std::size_t first = text.npos, n_held = 0;
    for (const std::string& stop : texts_) first = std::min(first, text.find(stop));
    if (first != text.npos) return {text.substr(0, first), true};
    for (const std::string& stop : texts_) n_held = std::max(n_held, overlap(text, stop));
    held_ = text.substr(text.size() - n_held);
    text.resize(text.size() - n_held);
    return {std::move(text), false};
}

std::string StopTexts::flush() { return std::exchange(held_, {}); }

}  // namespace aurora
