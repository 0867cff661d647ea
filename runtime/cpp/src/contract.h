// Names, types and shapes of the inputs and outputs of both graphs, and limits.
// Made from core/contract.py by runtime/cpp/contract_header.py: do not edit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "config.h"

namespace aurora {

// Most tokens of one run of the language graph; prefill is cut into chunks of at most this many.
constexpr std::int64_t MAX_CHUNK_TOKENS = 256;

// The recurrent state, in order; each comes out of the language graph as next_<name>.
constexpr std::size_t N_STATES = 3;
constexpr std::array<const char*, N_STATES> STATE_NAMES = {{"att_shift", "ffn_shift", "wkv"}};
constexpr std::array<const char*, N_STATES> NEXT_STATE_NAMES = {{"next_att_shift", "next_ffn_shift", "next_wkv"}};

// A size, or the letter of a dimension that is free at run time: F frames, B sequences, T tokens.
using Size = std::variant<std::int64_t, std::string>;

struct TensorSpec {
    std::string name, dtype;
    std::vector<Size> shape;

    bool operator==(const TensorSpec& other) const {
        return name == other.name && dtype == other.dtype && shape == other.shape;
    }
};

struct GraphSpec {
    std::vector<TensorSpec> inputs, outputs;

    bool operator==(const GraphSpec& other) const { return inputs == other.inputs && outputs == other.outputs; }
};

constexpr const char* ATT_SHIFT = "att_shift";
constexpr const char* EMBEDDINGS = "embeddings";
constexpr const char* FFN_SHIFT = "ffn_shift";
constexpr const char* FRAMES = "frames";
constexpr const char* LOGITS = "logits";
constexpr const char* NEXT_ATT_SHIFT = "next_att_shift";
constexpr const char* NEXT_FFN_SHIFT = "next_ffn_shift";
constexpr const char* NEXT_WKV = "next_wkv";
constexpr const char* TOKEN_OF_PATCH = "token_of_patch";
constexpr const char* TOKEN_SIZES = "token_sizes";
constexpr const char* VISUAL_TOKENS = "visual_tokens";
constexpr const char* WKV = "wkv";

// The contract of both graphs: "vision" and "language".
inline std::map<std::string, GraphSpec> graphs(const AuroraConfig& config) {
    return {
        {"vision",
         {{
                {FRAMES, "uint8", {std::string("F"), config.vision.image_size, config.vision.image_size, std::int64_t{3}}},
            }, {
                {VISUAL_TOKENS, "float32", {std::string("F"), config.tokens_per_frame(), config.language.width}},
                {TOKEN_SIZES, "int32", {std::string("F"), config.tokens_per_frame()}},
                {TOKEN_OF_PATCH, "int32", {std::string("F"), config.vision.n_patches()}},
            }}},
        {"language",
         {{
                {EMBEDDINGS, "float32", {std::string("B"), std::string("T"), config.language.width}},
                {ATT_SHIFT, "float32", {config.language.n_layers, std::string("B"), config.language.width}},
                {FFN_SHIFT, "float32", {config.language.n_layers, std::string("B"), config.language.width}},
                {WKV, "float32", {config.language.n_layers, std::string("B"), config.language.n_heads(), config.language.head_size, config.language.head_size}},
            }, {
                {LOGITS, "float32", {std::string("B"), config.language.vocabulary_size}},
                {NEXT_ATT_SHIFT, "float32", {config.language.n_layers, std::string("B"), config.language.width}},
                {NEXT_FFN_SHIFT, "float32", {config.language.n_layers, std::string("B"), config.language.width}},
                {NEXT_WKV, "float32", {config.language.n_layers, std::string("B"), config.language.n_heads(), config.language.head_size, config.language.head_size}},
            }}},
    };
}

}  // namespace aurora
