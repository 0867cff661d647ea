// The RWKV World tokenizer: vocabulary file, text to ids and back, text from ids that come one by one.
// Mirrors core/tokenizer.py, where the file's format is described.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "text.h"
#include "token_trie.h"

namespace aurora {

using Ids = std::vector<std::int32_t>;

constexpr std::int32_t END_OF_TEXT = 0;
constexpr std::size_t MAX_VOCABULARY_FILE_BYTES = std::size_t{16} << 20;
constexpr std::size_t MAX_TOKEN_BYTES = 1024;
constexpr std::size_t MAX_LINE_BYTES = 8 * MAX_TOKEN_BYTES;

// Immutable; safe to share between threads.
class Tokenizer {
public:
    // Read a World vocabulary file. Throws Error(integrity), with the line number, for anything unexpected.
    static Tokenizer from_file(const std::string& path);

    // Parse the content of one; `name` stands in error messages.
    static Tokenizer from_bytes(std::string_view data, const std::string& name = "vocabulary");

    // The largest id + 1: the fewest rows that the embedding table must have.
    std::int64_t vocabulary_size() const { return vocabulary_size_; }

    // Ids of text: the longest token that matches, again and again. Linear in the text.
    // Throws Error(usage) for text that is not UTF-8, and at a byte where no token matches.
    Ids encode(std::string_view text) const;

    // The same for raw bytes.
    Ids encode_bytes(std::string_view data) const;

    // The bytes of an id, which need not be whole UTF-8; valid as long as the tokenizer. An id without a line yields
    // U+FFFD: heads have more rows than vocabularies have lines. Throws Error(usage) for a negative id.
    std::string_view bytes_of(std::int32_t id) const;

    std::string decode_bytes(const Ids& ids) const;

    // The text of ids, valid UTF-8; bytes that are none become U+FFFD.
    std::string decode(const Ids& ids) const;

private:
    explicit Tokenizer(std::map<std::int32_t, std::string> token_bytes);

    std::map<std::int32_t, std::string> bytes_of_id_;
    std::int64_t vocabulary_size_;
    TokenTrie trie_;
};

// Text from ids that come one by one: never half a character, nothing held back but one that is incomplete.
// The pieces joined, `flush` included, equal `Tokenizer::decode` of all ids.
class StreamDecoder {
public:
    explicit StreamDecoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

    // The text that this id completes; empty while a character is incomplete.
    std::string push(std::int32_t id) { return decoder_.push(tokenizer_->bytes_of(id)); }

    // U+FFFD if a character stayed incomplete, else empty. The decoder can be used again.
    std::string flush() { return decoder_.flush(); }

private:
    const Tokenizer* tokenizer_;
    Utf8Decoder decoder_;
};

}  // namespace aurora
