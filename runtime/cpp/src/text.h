// UTF-8 as Python's codec reads it, and how Python writes strings and numbers in messages and in JSON.
// Mirrors what the Python side has from the language: codecs, str.strip, repr, json.dumps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace aurora {

// Position of the first byte that is not UTF-8 (surrogates and what is over U+10FFFF are not); npos if all is.
std::size_t find_invalid_utf8(std::string_view bytes);

// Bytes to valid UTF-8: what is no character becomes U+FFFD, one for each of Unicode's maximal subparts.
std::string decode_lossy(std::string_view bytes);

// The same in pieces. What could still become a character is held back, at most 3 bytes.
class Utf8Decoder {
public:
    std::string push(std::string_view bytes) { return decode(bytes, false); }
    std::string flush() { return decode({}, true); }

private:
    std::string decode(std::string_view bytes, bool is_final);

    std::string held_;
};

// Number of characters of valid UTF-8, and its first n characters.
std::size_t count_characters(std::string_view text);
std::string first_characters(std::string_view text, std::size_t n);

void append_utf8(std::string& to, std::uint32_t code_point);

// Without the white space of Unicode at both ends, as str.strip does. The text is valid UTF-8.
std::string_view strip(std::string_view text);

// As Python's repr of a str. The text is valid UTF-8; characters over U+00AD are all taken for printable.
std::string repr(std::string_view text);

// As Python's repr of a bytes object.
std::string repr_of_bytes(std::string_view bytes);

// As Python's repr of a float: the shortest digits that give the same number. The number is finite.
std::string text_of_number(double number);

// As json.dumps of a str: quotes, and ASCII only.
std::string json_of_text(std::string_view text);

}  // namespace aurora
