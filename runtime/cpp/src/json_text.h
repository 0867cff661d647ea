// JSON from a stranger, read within limits and without the freedoms that let two readers see two things: a key twice,
// NaN, text behind the end. Mirrors json.loads as core/manifest.py and runtime/state.py use it; what they take beyond
// this no writer of ours makes.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

namespace aurora {

using Json = nlohmann::json;

struct JsonLimits {
    std::size_t max_depth = 32;
    std::size_t max_values = 200'000;  // of all kinds; each takes some 50 bytes of memory
};

// Throws std::runtime_error that says what is wrong, and nothing else.
Json parse_json(std::string_view text, const JsonLimits& limits = {});

// What Python calls the type of a value: dict, list, str, int, float, bool, NoneType.
const char* python_type(const Json& value);

}  // namespace aurora
