#include "config.h"

#include <algorithm>
#include <cmath>

#include "text.h"

namespace aurora {
namespace {

constexpr std::int64_t MAX_PATCHES = 3840;  // TensorRT's limit on k of TopK

VisionConfig read_vision(const Field& field) {
    Fields fields(field);
    VisionConfig c{};
    c.image_size = fields["image_size"].positive_integer(4096);
    c.patch_size = fields["patch_size"].positive_integer(MAX_SIZE);
    c.width = fields["width"].positive_integer(MAX_SIZE);
    c.n_layers = fields["n_layers"].positive_integer(1000);
    c.layers_used = fields["layers_used"].positive_integer(MAX_SIZE);
    c.n_heads = fields["n_heads"].positive_integer(MAX_SIZE);
    c.mlp_width = fields["mlp_width"].positive_integer(MAX_SIZE);
    c.layer_norm_eps = fields["layer_norm_eps"].positive_number();
    fields.finish();
    const auto text = [](std::int64_t n) { return std::to_string(n); };
    if (c.width % c.n_heads)
        fields.fail("vision.width " + text(c.width) + " is not divisible by vision.n_heads " + text(c.n_heads));
    if (c.layers_used > c.n_layers)
        fields.fail("vision.layers_used " + text(c.layers_used) + " is over vision.n_layers " + text(c.n_layers));
    if (c.patch_size > c.image_size)
        fields.fail("vision.patch_size " + text(c.patch_size) + " is over vision.image_size " + text(c.image_size));
    if (c.n_patches() >= MAX_PATCHES)
        fields.fail(text(c.n_patches()) + " patches a frame; TensorRT's TopK sorts fewer than " + text(MAX_PATCHES));
    return c;
}

MergeConfig read_merge(const Field& field) {
    Fields fields(field);
    MergeConfig c{};
    c.kept_ratio = fields["kept_ratio"].positive_number();
    if (c.kept_ratio > 1) fields["kept_ratio"].fail("Input should be less than or equal to 1");
    c.schedule = fields["schedule"].choice({"constant", "exact"});
    c.sort = fields["sort"].choice({"per_layer", "final", "none"});
    c.order = fields["order"].choice({"ascending", "descending", "none"});
    c.protect_first = fields["protect_first"].truth();
    c.drop_first = fields["drop_first"].truth();
    c.split = fields["split"].choice({"with_cls", "patches_only"});
    c.proportional_attention = fields["proportional_attention"].truth();
    fields.finish();
    if ((c.sort == "none") != (c.order == "none"))
        fields.fail("merge.sort=" + c.sort + " contradicts merge.order=" + c.order + ": set both to none, or neither");
    if (c.split == "patches_only" && !c.protect_first)
        fields.fail("merge.split=patches_only sets token 0 apart, so it needs merge.protect_first=true");
    return c;
}

std::array<double, 3> read_colour(const Field& field) {
    const std::vector<Field> items = field.items();
    std::array<double, 3> colour{};
    for (std::size_t i = 0; i < 3; ++i) {
        if (i >= items.size()) throw FieldError{field.where() + "." + std::to_string(i), "Field required"};
        colour[i] = items[i].number();
    }
    if (items.size() > 3)
        field.fail("Tuple should have at most 3 items after validation, not " + std::to_string(items.size()));
    return colour;
}

std::string json_of(const std::array<double, 3>& colour) {
    return "[" + text_of_number(colour[0]) + ", " + text_of_number(colour[1]) + ", " + text_of_number(colour[2]) + "]";
}

FramesConfig read_frames(const Field& field) {
    Fields fields(field);
    FramesConfig c{};
    c.resize = fields["resize"].choice({"crop", "squash", "pad"});
    c.mean = read_colour(fields["mean"]);
    c.std = read_colour(fields["std"]);
    fields.finish();
    const auto in_range = [](double low, const std::array<double, 3>& values) {
        return std::all_of(values.begin(), values.end(), [&](double v) { return v >= low && v <= 1; });
    };
    if (!in_range(0, c.mean) || !in_range(0, c.std) || *std::min_element(c.std.begin(), c.std.end()) <= 0) {
        const auto tuple = [](std::string list) { return list.front() = '(', list.back() = ')', list; };
        fields.fail("frames.mean " + tuple(json_of(c.mean)) + " must lie in 0..1 and frames.std " + tuple(json_of(c.std)) + " in (0, 1]");
    }
    return c;
}

LanguageConfig read_language(const Field& field) {
    Fields fields(field);
    LanguageConfig c{};
    const Field version = fields["version"];
    if (!version.json().is_number_integer() || (version.json() != 6 && version.json() != 7)) version.fail("Input should be 6 or 7");
    c.version = version.integer();
    c.n_layers = fields["n_layers"].positive_integer(1000);
    c.width = fields["width"].positive_integer(MAX_SIZE);
    c.head_size = fields["head_size"].positive_integer(MAX_SIZE);
    c.ffn_width = fields["ffn_width"].positive_integer(MAX_SIZE);
    c.vocabulary_size = fields["vocabulary_size"].positive_integer(MAX_SIZE);
    // Defaults as in Python; a bundle always holds them.
    if (fields.has("layer_norm_eps")) c.layer_norm_eps = fields["layer_norm_eps"].positive_number();
    if (fields.has("group_norm_eps")) c.group_norm_eps = fields["group_norm_eps"].positive_number();
    for (const auto& [name, rank] : fields["low_ranks"].entries()) c.low_ranks[name] = rank.integer();
    fields.finish();
    if (c.width % c.head_size)
        fields.fail("language.width " + std::to_string(c.width) + " is not divisible by language.head_size " + std::to_string(c.head_size));
    const std::vector<std::string> expected =
        c.version == 6 ? std::vector<std::string>{"decay", "mix"} : std::vector<std::string>{"decay", "gate", "rate", "value"};
    std::vector<std::string> found;
    for (const auto& entry : c.low_ranks) found.push_back(entry.first);
    if (found != expected) {
        const auto list = [](const std::vector<std::string>& names) {
            std::string text;
            for (const std::string& name : names) text += (text.empty() ? "" : ", ") + repr(name);
            return "[" + text + "]";
        };
        fields.fail("language.low_ranks of RWKV-" + std::to_string(c.version) + " are " + list(expected) + ", not " + list(found));
    }
    return c;
}

PromptConfig read_prompt(const Field& field) {
    Fields fields(field);
    PromptConfig c{};
    c.sandwich = fields["sandwich"].choice({"duplicate", "split", "image_first"});
    c.frame_separator = fields["frame_separator"].choice({"", " ", "\n"});
    c.bos = fields["bos"].truth();
    c.instruction = fields["instruction"].text();
    if (c.instruction.empty()) fields["instruction"].fail("String should have at least 1 character");
    c.collapse_newlines = fields["collapse_newlines"].truth();
    for (const Field& id : fields["stop_ids"].items())
        c.stop_ids.push_back(static_cast<std::int32_t>(id.integer(INT32_MIN, INT32_MAX)));
    for (const Field& text : fields["stop_texts"].items()) c.stop_texts.push_back(text.text());
    fields.finish();
    return c;
}

// What the schedule asks of each layer that runs, before it is known how many tokens that layer has.
std::vector<std::int64_t> wanted_merges(const VisionConfig& vision, const MergeConfig& merge) {
    const auto n_used = static_cast<std::size_t>(vision.layers_used);
    const std::int64_t n_patches = vision.n_patches();
    if (merge.schedule == "constant") {
        // Left to right in double, the side not rounded to whole patches and L = all layers: as the released code.
        const double nominal = static_cast<double>(vision.image_size * vision.image_size) /
                               static_cast<double>(vision.patch_size * vision.patch_size);
        const auto r = static_cast<std::int64_t>(nominal * (1 - merge.kept_ratio) / static_cast<double>(vision.n_layers));
        return std::vector<std::int64_t>(n_used, r);
    }
    // Ties to the even number, as Python's round.
    const auto n_kept = static_cast<std::int64_t>(std::nearbyint(static_cast<double>(n_patches) * merge.kept_ratio));
    const std::int64_t n_removed = n_patches - std::max<std::int64_t>(1, n_kept);
    std::vector<std::int64_t> wanted(n_used, n_removed / vision.layers_used);
    for (std::size_t layer = 0; layer < static_cast<std::size_t>(n_removed % vision.layers_used); ++layer) ++wanted[layer];
    return wanted;
}

const char* json_of(bool value) { return value ? "true" : "false"; }

}  // namespace

std::array<std::uint8_t, 3> FramesConfig::pad_value() const {
    std::array<std::uint8_t, 3> colour{};
    for (std::size_t i = 0; i < 3; ++i) colour[i] = static_cast<std::uint8_t>(mean[i] * 255);
    return colour;
}

std::int64_t AuroraConfig::tokens_per_frame() const {
    std::int64_t n_tokens = vision.n_patches();
    // Only tokens of set A can disappear, so a layer merges at most half of what may move.
    for (const std::int64_t r : wanted_merges(vision, merge))
        n_tokens -= std::max<std::int64_t>(0, std::min(r, (n_tokens - merge.protect_first) / 2));
    return n_tokens - merge.drop_first;
}

AuroraConfig read_config(const Field& field) {
    Fields fields(field);
    AuroraConfig c{};
    c.profile = fields["profile"].text();
    c.vision = read_vision(fields["vision"]);
    c.merge = read_merge(fields["merge"]);
    c.frames = read_frames(fields["frames"]);
    Fields projector(fields["projector"]);
    c.projector.hidden_width = projector["hidden_width"].positive_integer(MAX_SIZE);
    projector.finish();
    c.language = read_language(fields["language"]);
    c.prompt = read_prompt(fields["prompt"]);
    fields.finish();
    if (c.tokens_per_frame() < 1)
        fields.fail("merge.kept_ratio " + text_of_number(c.merge.kept_ratio) + " leaves " + std::to_string(c.tokens_per_frame()) +
                    " tokens of a frame; at least 1 is needed");
    return c;
}

std::string json_of_config(const AuroraConfig& c) {
    const auto list = [](const auto& values, const auto& text) {
        std::string joined;
        for (const auto& value : values) joined += (joined.empty() ? "" : ", ") + text(value);
        return "[" + joined + "]";
    };
    const auto number = [](std::int64_t n) { return std::to_string(n); };
    std::string ranks;
    for (const auto& [name, rank] : c.language.low_ranks)
        ranks += (ranks.empty() ? "" : ", ") + json_of_text(name) + ": " + number(rank);
    // Keys of every object in alphabetical order.
    return "{\"frames\": {\"mean\": " + json_of(c.frames.mean) + ", \"resize\": " + json_of_text(c.frames.resize) +
           ", \"std\": " + json_of(c.frames.std) + "}, \"language\": {\"ffn_width\": " + number(c.language.ffn_width) +
           ", \"group_norm_eps\": " + text_of_number(c.language.group_norm_eps) + ", \"head_size\": " + number(c.language.head_size) +
           ", \"layer_norm_eps\": " + text_of_number(c.language.layer_norm_eps) + ", \"low_ranks\": {" + ranks +
           "}, \"n_layers\": " + number(c.language.n_layers) + ", \"version\": " + number(c.language.version) +
           ", \"vocabulary_size\": " + number(c.language.vocabulary_size) + ", \"width\": " + number(c.language.width) +
           "}, \"merge\": {\"drop_first\": " + json_of(c.merge.drop_first) + ", \"kept_ratio\": " + text_of_number(c.merge.kept_ratio) +
           ", \"order\": " + json_of_text(c.merge.order) + ", \"proportional_attention\": " + json_of(c.merge.proportional_attention) +
           ", \"protect_first\": " + json_of(c.merge.protect_first) + ", \"schedule\": " + json_of_text(c.merge.schedule) +
           ", \"sort\": " + json_of_text(c.merge.sort) + ", \"split\": " + json_of_text(c.merge.split) +
           "}, \"profile\": " + json_of_text(c.profile) + ", \"projector\": {\"hidden_width\": " + number(c.projector.hidden_width) +
           "}, \"prompt\": {\"bos\": " + json_of(c.prompt.bos) + ", \"collapse_newlines\": " + json_of(c.prompt.collapse_newlines) +
           ", \"frame_separator\": " + json_of_text(c.prompt.frame_separator) + ", \"instruction\": " + json_of_text(c.prompt.instruction) +
           ", \"sandwich\": " + json_of_text(c.prompt.sandwich) + ", \"stop_ids\": " + list(c.prompt.stop_ids, number) +
           ", \"stop_texts\": " + list(c.prompt.stop_texts, json_of_text) + "}, \"vision\": {\"image_size\": " + number(c.vision.image_size) +
           ", \"layer_norm_eps\": " + text_of_number(c.vision.layer_norm_eps) + ", \"layers_used\": " + number(c.vision.layers_used) +
           ", \"mlp_width\": " + number(c.vision.mlp_width) + ", \"n_heads\": " + number(c.vision.n_heads) +
           ", \"n_layers\": " + number(c.vision.n_layers) + ", \"patch_size\": " + number(c.vision.patch_size) +
           ", \"width\": " + number(c.vision.width) + "}}";
}

}  // namespace aurora
