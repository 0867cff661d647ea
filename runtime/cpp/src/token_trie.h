// Greedy longest match over bytes: a vocabulary as a double-array trie. Mirrors core/token_trie.py, which describes the
// three arrays; the walk is its `_walk`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace aurora {

constexpr std::size_t MAX_SLOTS = std::size_t{1} << 22;  // 13 times what World takes; 48 MiB

// Immutable, so threads may share it.
class TokenTrie {
public:
    // Index a vocabulary, ids to byte strings; the byte strings are unique and none is empty.
    // Throws Error(integrity) if the trie needs more than MAX_SLOTS slots, as only a made-up vocabulary does.
    explicit TokenTrie(const std::map<std::int32_t, std::string>& tokens);

    // Append the ids of the longest token that matches, again and again. Linear in the text.
    // Returns where no token matches, npos if the text is covered.
    std::size_t encode(std::string_view data, std::vector<std::int32_t>& ids) const;

private:
    void insert_levels(const std::vector<std::string_view>& tokens);

    std::vector<std::int32_t> base_, parent_, longest_;  // by slot
    std::vector<std::int32_t> id_of_number_;
    std::vector<std::uint32_t> length_of_number_;
};

}  // namespace aurora
