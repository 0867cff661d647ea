#include "token_trie.h"

#include <algorithm>
#include <numeric>

#include "error.h"

namespace aurora {
namespace {

constexpr std::int32_t BEFORE_FIRST_ROW = 256;  // base is not negative, and a leaf's, 0, leads to slots in no use

// A token on its way down the trie.
struct Path {
    std::int32_t number, slot, longest;
};

std::uint8_t byte_of(std::string_view token, std::size_t depth) { return static_cast<std::uint8_t>(token[depth]); }

}  // namespace

TokenTrie::TokenTrie(const std::map<std::int32_t, std::string>& tokens) : id_of_number_{0}, length_of_number_{0} {
    std::vector<std::string_view> bytes;
    bytes.reserve(tokens.size());
    for (const auto& [id, token] : tokens) {
        id_of_number_.push_back(id);
        length_of_number_.push_back(static_cast<std::uint32_t>(token.size()));
        bytes.push_back(token);
    }
    insert_levels(bytes);
}

// Level by level, as `_levels` of the Python side: in sorted order the tokens of a node stand side by side.
void TokenTrie::insert_levels(const std::vector<std::string_view>& tokens) {
    std::vector<Path> paths(tokens.size());
    for (std::size_t i = 0; i < paths.size(); ++i) paths[i] = {static_cast<std::int32_t>(i + 1), 0, 0};
    const auto token_of = [&](const Path& path) { return tokens[static_cast<std::size_t>(path.number) - 1]; };
    std::sort(paths.begin(), paths.end(), [&](const Path& a, const Path& b) { return token_of(a) < token_of(b); });

    std::int32_t end = BEFORE_FIRST_ROW;
    const auto grow = [&](std::int32_t n_slots) {
        base_.resize(static_cast<std::size_t>(n_slots), 0);
        parent_.resize(static_cast<std::size_t>(n_slots), -1);
        longest_.resize(static_cast<std::size_t>(n_slots), 0);
    };
    grow(end);
    for (std::size_t depth = 0;; ++depth) {
        paths.erase(std::remove_if(paths.begin(), paths.end(),
                                   [&](const Path& path) { return token_of(path).size() <= depth; }),
                    paths.end());
        if (paths.empty()) break;
        for (std::size_t row = 0, row_end; row < paths.size(); row = row_end) {
            const std::int32_t node = paths[row].slot;
            for (row_end = row; row_end < paths.size() && paths[row_end].slot == node; ++row_end) {}
            const std::int32_t lowest = byte_of(token_of(paths[row]), depth);
            const std::int32_t base = end - lowest;
            end += byte_of(token_of(paths[row_end - 1]), depth) - lowest + 1;
            if (static_cast<std::size_t>(end) > MAX_SLOTS)
                throw Error(Status::integrity,
                            "the vocabulary's index needs over " + std::to_string(MAX_SLOTS) + " places, the limit",
                            "the World vocabulary takes 0.3 million; copy the vocabulary file from the checkpoint again");
            grow(end);
            base_[static_cast<std::size_t>(node)] = base;
            for (std::size_t i = row; i < row_end; ++i) {
                const auto slot = static_cast<std::size_t>(base + byte_of(token_of(paths[i]), depth));
                // The shortest token of a slot comes first: if any ends here, it does.
                if (parent_[slot] != node) {
                    parent_[slot] = node;
                    longest_[slot] = token_of(paths[i]).size() == depth + 1 ? paths[i].number : paths[i].longest;
                }
                paths[i].slot = static_cast<std::int32_t>(slot);
                paths[i].longest = longest_[slot];
            }
        }
    }
    grow(end + 256);  // base + 255 stays inside
}

std::size_t TokenTrie::encode(std::string_view data, std::vector<std::int32_t>& ids) const {
    for (std::size_t at = 0; at < data.size();) {
        std::int32_t slot = 0;
        for (std::size_t i = at; i < data.size(); ++i) {
            const std::int32_t below = base_[static_cast<std::size_t>(slot)] + static_cast<std::uint8_t>(data[i]);
            if (parent_[static_cast<std::size_t>(below)] != slot) break;
            slot = below;
        }
        const auto number = static_cast<std::size_t>(longest_[static_cast<std::size_t>(slot)]);
        if (!number) return at;
        ids.push_back(id_of_number_[number]);
        at += length_of_number_[number];
    }
    return data.npos;
}

}  // namespace aurora
