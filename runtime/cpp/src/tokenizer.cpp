#include "tokenizer.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <unordered_map>

#include "error.h"

namespace aurora {
namespace {

constexpr std::string_view REPLACEMENT = "\xEF\xBF\xBD";
constexpr std::int64_t MAX_ID = std::numeric_limits<std::int32_t>::max();

// What is wrong with a line; the caller adds where.
struct LineError {
    std::string what;
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_number(std::string_view text) {
    return !text.empty() && text.size() <= 10 && std::all_of(text.begin(), text.end(), is_digit);
}

// `value` of n hexadecimal digits from `at`; false if there are fewer.
bool read_hex(std::string_view text, std::size_t at, std::size_t n, std::uint32_t& value) {
    if (at + n > text.size()) return false;
    value = 0;
    for (const char c : text.substr(at, n)) {
        const std::string_view digits = "0123456789abcdef";
        const std::size_t digit = digits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c);
        if (digit == digits.npos) return false;
        value = value << 4 | static_cast<std::uint32_t>(digit);
    }
    return true;
}

enum class Literal { token, not_a_literal, not_text };

// One escape at `at`, the backslash; moves `at` behind it.
Literal read_escape(std::string_view text, bool is_bytes, std::size_t& at, std::string& token) {
    const char kind = at + 1 < text.size() ? text[at + 1] : '\0';
    const std::string_view simple = "\\'\"nrt", meant = "\\'\"\n\r\t";
    if (const std::size_t i = simple.find(kind); i != simple.npos && kind != '\0') {
        token += meant[i];
        at += 2;
        return Literal::token;
    }
    const std::size_t n_digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
    std::uint32_t value = 0;
    if (!n_digits || (is_bytes && kind != 'x') || !read_hex(text, at + 2, n_digits, value)) return Literal::not_a_literal;
    at += 2 + n_digits;
    if (is_bytes) {
        token += static_cast<char>(value);
    } else {
        if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) return Literal::not_text;
        append_utf8(token, value);
    }
    return Literal::token;
}

// What repr writes for a str or a bytes object, and nothing else that Python would read.
Literal read_literal(std::string_view literal, std::string& token) {
    std::string_view text = literal;
    const bool is_bytes = !text.empty() && text.front() == 'b';
    if (is_bytes) text.remove_prefix(1);
    if (text.size() < 2 || (text.front() != '\'' && text.front() != '"') || text.back() != text.front())
        return Literal::not_a_literal;
    const char quote = text.front();
    text = text.substr(1, text.size() - 2);
    Literal result = Literal::token;
    for (std::size_t at = 0; at < text.size();) {
        const auto byte = static_cast<std::uint8_t>(text[at]);
        if (byte == '\\') {
            const Literal escape = read_escape(text, is_bytes, at, token);
            if (escape == Literal::not_a_literal) return escape;
            if (escape == Literal::not_text) result = escape;
        } else {
            if (text[at] == quote || byte < 0x20 || (is_bytes && byte > 0x7E)) return Literal::not_a_literal;
            token += text[at++];
        }
    }
    return result;
}

std::pair<std::int32_t, std::string> token_from_line(std::string_view line) {
    if (line.size() > MAX_LINE_BYTES)
        throw LineError{std::to_string(line.size()) + " bytes, over the limit of " + std::to_string(MAX_LINE_BYTES)};
    // The published World vocabulary has CRLF line ends.
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (const std::size_t at = find_invalid_utf8(line); at != line.npos)
        throw LineError{"byte " + std::to_string(at) + " is not UTF-8"};
    const std::size_t first = line.find(' '), last = line.rfind(' ');
    if (first == last) throw LineError{"it needs three fields: id, literal, byte length"};
    const std::string_view id_text = line.substr(0, first), literal = line.substr(first + 1, last - first - 1),
                           length_text = line.substr(last + 1);

    const std::int64_t id = is_number(id_text) ? std::stoll(std::string(id_text)) : 0;
    if (id < 1 || id > MAX_ID)
        throw LineError{"id " + repr(first_characters(id_text, 20)) + " is no number from 1 to " + std::to_string(MAX_ID)};
    if (!is_number(length_text))
        throw LineError{"byte length " + repr(first_characters(length_text, 20)) + " is no number"};
    std::string token;
    const Literal kind = read_literal(literal, token);
    if (kind != Literal::token)
        throw LineError{repr(first_characters(literal, 40)) +
                        (kind == Literal::not_text ? " is no valid text" : " is no str or bytes literal as Python's repr writes it")};
    const std::int64_t length = std::stoll(std::string(length_text));
    if (static_cast<std::int64_t>(token.size()) != length)
        throw LineError{"the literal has " + std::to_string(token.size()) + " bytes, the line says " + std::to_string(length)};
    if (token.empty() || token.size() > MAX_TOKEN_BYTES)
        throw LineError{"a token has 1 to " + std::to_string(MAX_TOKEN_BYTES) + " bytes, not " + std::to_string(token.size())};
    return {static_cast<std::int32_t>(id), std::move(token)};
}

std::map<std::int32_t, std::string> tokens_from_file(std::string_view data, const std::string& name) {
    const char* again = "copy the vocabulary file from the checkpoint again";
    if (data.size() > MAX_VOCABULARY_FILE_BYTES)
        throw Error(Status::integrity,
                    name + " is over " + std::to_string(MAX_VOCABULARY_FILE_BYTES >> 20) + " MiB, the limit of a vocabulary file",
                    "the World vocabulary has 1.1 MB; is this another file?");
    if (data.empty()) throw Error(Status::integrity, name + " is empty", again);

    std::map<std::int32_t, std::string> tokens;
    std::unordered_map<std::int32_t, std::size_t> line_of_id;
    std::unordered_map<std::string_view, std::size_t> line_of_token;
    std::size_t number = 0;
    while (!data.empty()) {
        const std::size_t end = std::min(data.find('\n'), data.size());
        ++number;
        try {
            auto [id, token] = token_from_line(data.substr(0, end));
            if (!line_of_id.emplace(id, number).second)
                throw LineError{"id " + std::to_string(id) + " already stands in line " + std::to_string(line_of_id[id])};
            if (const auto found = line_of_token.find(token); found != line_of_token.end())
                throw LineError{"token " + repr_of_bytes(token) + " already stands in line " + std::to_string(found->second)};
            line_of_token.emplace(tokens.emplace(id, std::move(token)).first->second, number);
        } catch (const LineError& error) {
            throw Error(Status::integrity, name + ", line " + std::to_string(number) + ": " + error.what,
                        std::string("a line is `<id> <literal> <byte length>`; ") + again);
        }
        data.remove_prefix(std::min(end + 1, data.size()));
    }
    return tokens;
}

}  // namespace

Tokenizer::Tokenizer(std::map<std::int32_t, std::string> token_bytes)
    : bytes_of_id_(std::move(token_bytes)), vocabulary_size_(std::int64_t{bytes_of_id_.rbegin()->first} + 1), trie_(bytes_of_id_) {
    bytes_of_id_.emplace(END_OF_TEXT, "");
}

Tokenizer Tokenizer::from_file(const std::string& path) {
    const auto fail = [&] {
        return Error(Status::integrity, "cannot read the vocabulary file " + path + ": " + std::strerror(errno),
                     "the checkpoint folder or bundle must hold it, as rwkv_vocab_v20230424.txt for World models");
    };
    errno = 0;
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
    if (size < 0) throw fail();
    // One byte over the limit is enough to see that it is over.
    std::string data(std::min<std::size_t>(static_cast<std::size_t>(size), MAX_VOCABULARY_FILE_BYTES + 1), '\0');
    file.seekg(0);
    file.read(data.data(), static_cast<std::streamsize>(data.size()));
    if (file.bad() || (file.fail() && !file.eof())) throw fail();
    data.resize(static_cast<std::size_t>(file.gcount()));
    return from_bytes(data, path);
}

Tokenizer Tokenizer::from_bytes(std::string_view data, const std::string& name) {
    return Tokenizer(tokens_from_file(data, name));
}

Ids Tokenizer::encode(std::string_view text) const {
    if (const std::size_t at = find_invalid_utf8(text); at != text.npos)
        throw Error(Status::usage, "the text is not UTF-8: byte " + std::to_string(at), "pass valid Unicode text, or the raw bytes");
    return encode_bytes(text);
}

Ids Tokenizer::encode_bytes(std::string_view data) const {
    Ids ids;
    const std::size_t at = trie_.encode(data, ids);
    if (at != data.npos) {
        const std::size_t from = at < 12 ? 0 : at - 12;
        char byte[8];
        std::snprintf(byte, sizeof byte, "0x%02x", static_cast<unsigned>(static_cast<std::uint8_t>(data[at])));
        throw Error(Status::usage,
                    std::string("the vocabulary has no token for byte ") + byte + ", near " +
                        repr(decode_lossy(data.substr(from, at + 12 - from))),
                    "this vocabulary does not cover all bytes: rephrase the text without that character");
    }
    return ids;
}

std::string_view Tokenizer::bytes_of(std::int32_t id) const {
    if (id < 0) throw Error(Status::usage, "token id " + std::to_string(id) + " is negative");
    const auto found = bytes_of_id_.find(id);
    return found == bytes_of_id_.end() ? REPLACEMENT : std::string_view(found->second);
}

std::string Tokenizer::decode_bytes(const Ids& ids) const {
    std::string bytes;
    for (const std::int32_t id : ids) bytes += bytes_of(id);
    return bytes;
}

std::string Tokenizer::decode(const Ids& ids) const { return decode_lossy(decode_bytes(ids)); }

}  // namespace aurora
