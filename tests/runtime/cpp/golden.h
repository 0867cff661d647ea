// The golden files of tests/golden, and the inputs that both languages make by themselves.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "error.h"
#include "sampling.h"
#include "text.h"
#include "tokenizer.h"

namespace aurora::tests {

using nlohmann::json;

inline std::string root() { return std::string(AURORA_TEST_DATA) + "/../../.."; }

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    EXPECT_TRUE(file.good()) << path;
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::string& path, const std::string& bytes) {
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

// Kept: what a range-based loop goes over must outlive it.
inline const json& golden(const std::string& name) {
    static std::map<std::string, json> files;
    const auto found = files.find(name);
    return found != files.end() ? found->second : files.emplace(name, json::parse(read_file(root() + "/tests/golden/" + name))).first->second;
}

inline std::string from_hex(const std::string& hex) {
    std::string bytes;
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    return bytes;
}

// What a call throws; status ok and no text if it throws nothing.
struct Refusal {
    Status status = Status::ok;
    std::string message, hint;
};

template <class Call>
Refusal refusal(const Call& call) {
    try {
        call();
    } catch (const Error& error) {
        return {error.status(), error.what(), error.hint()};
    }
    return {};
}

// A folder of its own for each test, removed at its end.
class Folder {
public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "aurora-test-XXXXXX").string();
        path_ = ::mkdtemp(name.data());
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }
    const std::string& path() const { return path_; }

private:
    std::string path_;
};

// random_text of tests/golden/golden_tokenizer.py. Kept in step by the digests of what comes out.
inline std::string random_text(SplitMix64& random, const std::vector<std::string>& tokens) {
    const auto below = [&](std::uint64_t n) { return random.next_uint64() % n; };
    const auto repeat = [](const std::string& part, std::uint64_t n) {
        std::string text;
        while (n--) text += part;
        return text;
    };
    std::string text;
    for (std::uint64_t n_parts = 1 + below(5); n_parts--;) {
        const std::uint64_t kind = below(8);
        if (kind == 0) {
            for (std::uint64_t n = below(40); n--;) text += static_cast<char>(0x20 + below(95));
        } else if (kind == 1) {
            for (std::uint64_t n = below(12); n--;) text += static_cast<char>(below(256));
        } else if (kind == 2) {
            text += tokens[below(tokens.size())];
        } else if (kind == 3) {
            const std::string& token = tokens[below(tokens.size())];
            text += token.substr(0, token.size() - 1);
        } else if (kind == 4) {
            const std::string byte(1, " \n\r\t=-"[below(6)]);
            text += repeat(byte, below(80));
        } else if (kind == 5) {
            const auto point = static_cast<std::uint32_t>(below(0x110000));
            if (point < 0xD800 || point >= 0xE000) append_utf8(text, point);
        } else if (kind == 6) {
            append_utf8(text, static_cast<std::uint32_t>(0x4E00 + below(0x5200)));
        } else {
            std::string part = tokens[below(tokens.size())];
            part += static_cast<char>(below(256));
            text += repeat(part, 1 + below(4));
        }
    }
    return text;
}

}  // namespace aurora::tests
