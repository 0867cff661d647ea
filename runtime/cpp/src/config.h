// The frozen configuration of a model, as the manifest holds it. Mirrors core/config.py, which describes the fields;
// profiles and overrides are the builder's and not here.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "fields.h"

namespace aurora {

struct VisionConfig {
    std::int64_t image_size, patch_size, width, n_layers, layers_used, n_heads, mlp_width;
    double layer_norm_eps;

    std::int64_t n_patches() const { return (image_size / patch_size) * (image_size / patch_size); }
};

struct MergeConfig {
    double kept_ratio;
    std::string schedule, sort, order;
    bool protect_first, drop_first;
    std::string split;
    bool proportional_attention;
};

struct FramesConfig {
    std::string resize;  // crop, squash, pad
    std::array<double, 3> mean, std;

    // Padding colour: the mean colour, truncated.
    std::array<std::uint8_t, 3> pad_value() const;
};

struct ProjectorConfig {
    std::int64_t hidden_width;
};

struct LanguageConfig {
    std::int64_t version, n_layers, width, head_size, ffn_width, vocabulary_size;
    double layer_norm_eps = 1e-5, group_norm_eps = 64e-5;
    std::map<std::string, std::int64_t> low_ranks;

    std::int64_t n_heads() const { return width / head_size; }
};

struct PromptConfig {
    std::string sandwich;  // duplicate, split, image_first
    std::string frame_separator;
    bool bos;
    std::string instruction;
    bool collapse_newlines;
    std::vector<std::int32_t> stop_ids;
    std::vector<std::string> stop_texts;
};

struct AuroraConfig {
    std::string profile;
    VisionConfig vision;
    MergeConfig merge;
    FramesConfig frames;
    ProjectorConfig projector;
    LanguageConfig language;
    PromptConfig prompt;

    // K: visual tokens of one frame that reach the language model.
    std::int64_t tokens_per_frame() const;
};

// Read and check a configuration; every size is at most MAX_SIZE. Throws FieldError.
AuroraConfig read_config(const Field& field);

// Of every size in a configuration; a product of three of them fits into 64 bits.
constexpr std::int64_t MAX_SIZE = std::int64_t{1} << 20;

// As json.dumps(config.model_dump(mode="json"), sort_keys=True): what the fingerprint is made of.
std::string json_of_config(const AuroraConfig& config);

}  // namespace aurora
