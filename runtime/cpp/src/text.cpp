#include "text.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>

namespace aurora {
namespace {

constexpr std::string_view REPLACEMENT = "\xEF\xBF\xBD";

std::uint8_t byte_at(std::string_view bytes, std::size_t at) { return static_cast<std::uint8_t>(bytes[at]); }

struct Step {
    std::size_t n_bytes;  // of the character, or of what is replaced
    bool is_character;
    bool is_incomplete;  // the bytes end here, and more could make it a character
    std::uint32_t code_point;
};

// What stands at `at`: Unicode 3.9, table 3-7, "maximal subpart of an ill-formed subsequence".
Step step(std::string_view bytes, std::size_t at) {
    const std::uint8_t first = byte_at(bytes, at);
    if (first < 0x80) return {1, true, false, first};
    const std::size_t n = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
    if (first < 0xC2 || first > 0xF4) return {1, false, false, 0};
    std::uint8_t low = 0x80, high = 0xBF;  // of the second byte
    if (first == 0xE0) low = 0xA0;
    if (first == 0xED) high = 0x9F;
    if (first == 0xF0) low = 0x90;
    if (first == 0xF4) high = 0x8F;
    std::uint32_t code_point = first & (0xFFu >> (n + 1));
    for (std::size_t i = 1; i < n; ++i) {
        if (at + i == bytes.size()) return {i, false, true, 0};
        const std::uint8_t next = byte_at(bytes, at + i);
        if (next < low || next > high) return {i, false, false, 0};
        low = 0x80, high = 0xBF;
        code_point = code_point << 6 | (next & 0x3Fu);
    }
    return {n, true, false, code_point};
}

// CPython waits for the third byte of a surrogate before it says that it is none.
bool begins_surrogate_at_end(std::string_view bytes, std::size_t at) {
    return bytes.size() - at == 2 && byte_at(bytes, at) == 0xED && byte_at(bytes, at + 1) >= 0xA0 &&
           byte_at(bytes, at + 1) <= 0xBF;
}

bool is_space(std::uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

void append_hex(std::string& to, const char* prefix, std::uint32_t value, int n_digits) {
    char text[16];
    std::snprintf(text, sizeof text, "%s%0*x", prefix, n_digits, value);
    to += text;
}

char quote_for(std::string_view text) {
    const bool has_single = text.find('\'') != text.npos, has_double = text.find('"') != text.npos;
    return has_single && !has_double ? '"' : '\'';
}

// The escapes that repr has for str and bytes alike; false if the character needs none of them.
bool append_common_escape(std::string& to, std::uint32_t c, char quote) {
    switch (c) {
        case '\\': to += "\\\\"; return true;
        case '\n': to += "\\n"; return true;
        case '\r': to += "\\r"; return true;
        case '\t': to += "\\t"; return true;
        default: break;
    }
    if (c == static_cast<unsigned char>(quote)) return to += '\\', to += quote, true;
    if (c < 0x20 || c == 0x7F) return append_hex(to, "\\x", c, 2), true;
    return false;
}

}  // namespace

std::size_t find_invalid_utf8(std::string_view bytes) {
    for (std::size_t at = 0; at < bytes.size();) {
        const Step next = step(bytes, at);
        if (!next.is_character) return at;
        at += next.n_bytes;
    }
    return bytes.npos;
}

std::string Utf8Decoder::decode(std::string_view bytes, bool is_final) {
    std::string joined;
    if (!held_.empty()) {
        joined = held_;
        joined += bytes;
        held_.clear();
        bytes = joined;
    }
    std::string text;
    text.reserve(bytes.size());
    for (std::size_t at = 0; at < bytes.size();) {
        const Step next = step(bytes, at);
        if (next.is_character) {
            text += bytes.substr(at, next.n_bytes);
        } else if (!is_final && (next.is_incomplete || begins_surrogate_at_end(bytes, at))) {
            held_ = bytes.substr(at);
            break;
        } else {
            text += REPLACEMENT;
        }
        at += next.n_bytes;
    }
    return text;
}

std::string decode_lossy(std::string_view bytes) {
    Utf8Decoder decoder;
    std::string text = decoder.push(bytes);
    return text += decoder.flush();
}

std::size_t count_characters(std::string_view text) {
    return static_cast<std::size_t>(
        std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<std::uint8_t>(c) & 0xC0) != 0x80; }));
}

std::string first_characters(std::string_view text, std::size_t n) {
    std::size_t at = 0;
    while (n-- && at < text.size()) at += step(text, at).n_bytes;
    return std::string(text.substr(0, at));
}

void append_utf8(std::string& to, std::uint32_t c) {
    const auto add = [&](std::uint32_t byte) { to += static_cast<char>(byte); };
    if (c < 0x80) return add(c);
    if (c < 0x800) return add(0xC0 | c >> 6), add(0x80 | (c & 0x3F));
    if (c < 0x10000) return add(0xE0 | c >> 12), add(0x80 | (c >> 6 & 0x3F)), add(0x80 | (c & 0x3F));
    add(0xF0 | c >> 18), add(0x80 | (c >> 12 & 0x3F)), add(0x80 | (c >> 6 & 0x3F)), add(0x80 | (c & 0x3F));
}

std::string_view strip(std::string_view text) {
    std::size_t begin = text.size(), end = 0;
    for (std::size_t at = 0; at < text.size();) {
        const Step next = step(text, at);
        if (!is_space(next.code_point)) {
            begin = std::min(begin, at);
            end = at + next.n_bytes;
        }
        at += next.n_bytes;
    }
    return begin < end ? text.substr(begin, end - begin) : std::string_view{};
}

std::string repr(std::string_view text) {
    const char quote = quote_for(text);
    std::string result(1, quote);
    for (std::size_t at = 0; at < text.size();) {
        const Step next = step(text, at);
        if (!append_common_escape(result, next.code_point, quote)) {
            if ((next.code_point >= 0x80 && next.code_point <= 0xA0) || next.code_point == 0xAD)
                append_hex(result, "\\x", next.code_point, 2);
            else
                result += text.substr(at, next.n_bytes);
        }
        at += next.n_bytes;
    }
    return result += quote;
}

std::string repr_of_bytes(std::string_view bytes) {
    const char quote = quote_for(bytes);
    std::string result = {'b', quote};
    for (const char c : bytes) {
        const auto byte = static_cast<std::uint8_t>(c);
        if (append_common_escape(result, byte, quote)) continue;
        if (byte < 0x80)
            result += c;
        else
            append_hex(result, "\\x", byte, 2);
    }
    return result += quote;
}

std::string text_of_number(double number) {
    char text[32];
    const auto end = std::to_chars(text, text + sizeof text, number, std::chars_format::scientific).ptr;
    // d.ddde±xx to the form that repr chooses: with an exponent outside 1e-4 .. 1e16.
    std::string_view whole(text, static_cast<std::size_t>(end - text));
    std::string sign;
    if (whole.front() == '-') sign = "-", whole.remove_prefix(1);
    const std::size_t e = whole.find('e');
    const int exponent = std::atoi(std::string(whole.substr(e + 1)).c_str());
    std::string digits(1, whole.front());
    if (e > 2) digits += whole.substr(2, e - 2);
    if (exponent < -4 || exponent >= 16) {
        char tail[24];
        std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
        return sign + digits[0] + (digits.size() > 1 ? "." + digits.substr(1) : "") + tail;
    }
    if (exponent < 0) return sign + "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    const auto n_whole = static_cast<std::size_t>(exponent) + 1;
    if (digits.size() <= n_whole) return sign + digits + std::string(n_whole - digits.size(), '0') + ".0";
    return sign + digits.substr(0, n_whole) + "." + digits.substr(n_whole);
}

std::string json_of_text(std::string_view text) {
    std::string result = "\"";
    for (std::size_t at = 0; at < text.size();) {
        const Step next = step(text, at);
        const std::uint32_t c = next.code_point;
        switch (c) {
            case '"': result += "\\\""; break;
            case '\\': result += "\\\\"; break;
            case '\n': result += "\\n"; break;
            case '\r': result += "\\r"; break;
            case '\t': result += "\\t"; break;
            case '\b': result += "\\b"; break;
            case '\f': result += "\\f"; break;
            default:
                if (c < 0x20 || (c > 0x7E && c < 0x10000)) {
                    append_hex(result, "\\u", c, 4);
                } else if (c < 0x7F) {
                    result += static_cast<char>(c);
                } else {
                    append_hex(result, "\\u", 0xD800 + ((c - 0x10000) >> 10), 4);
                    append_hex(result, "\\u", 0xDC00 + ((c - 0x10000) & 0x3FF), 4);
                }
        }
        at += next.n_bytes;
    }
    return result += '"';
}

}  // namespace aurora
