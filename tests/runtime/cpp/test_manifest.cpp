// What the reader makes of a manifest and of edits of it, to the word as Python; what it refuses beyond that.
#include "manifest.h"

#include <sys/stat.h>

#include "golden.h"

namespace aurora::tests {
namespace {

json edited(json content, const json& edits, const json& deleted) {
    for (const json& edit : edits) {
        json* place = &content;
        const json& path = edit[0];
        for (std::size_t i = 0; i + 1 < path.size(); ++i)
            place = path[i].is_number() ? &(*place)[path[i].get<std::size_t>()] : &(*place)[path[i].get<std::string>()];
        const json& key = path.back();
        if (edit[1] == deleted)
            place->erase(key.get<std::string>());
        else
            (*place)[key.get<std::string>()] = edit[1];
    }
    return content;
}

TEST(Manifest, EditsAsPython) {
    const json recorded = golden("manifest.json");
    for (const json& entry : recorded["cases"]) {
        const std::string text = edited(recorded["manifest"], entry["edits"], recorded["deleted"]).dump();
        json found = {{"edits", entry["edits"]}, {"status", 0}};
        try {
            const Manifest manifest = manifest_from_text(text, "B/manifest.json");
            found["fingerprint"] = manifest.fingerprint();
            found["tokens_per_frame"] = manifest.config.tokens_per_frame();
            found["pad_value"] = manifest.config.frames.pad_value();
            found["contract_is_ours"] = refusal([&] { check_contract("B", manifest); }).status == Status::ok;
        } catch (const Error& error) {
            found["status"] = static_cast<int>(error.status());
            found["message"] = error.what();
            EXPECT_NE(error.hint(), "");
        }
        EXPECT_EQ(found, entry);
    }
}

Refusal refusal_of(const std::string& text) {
    return refusal([&] { manifest_from_text(text, "M"); });
}

TEST(Manifest, NotAManifest) {
    EXPECT_EQ(refusal_of("[1, 2]").message, "M: expected a JSON object, found list");
    EXPECT_EQ(refusal_of("null").message, "M: expected a JSON object, found NoneType");
    const std::vector<std::string> texts = {"",     "not json", "{",           "{\"a\": NaN}",         "{\"a\": Infinity}", "{} {}",
                                            "{'a'}", "\xEF\xBB\xBF{}", "{\"a\": \"\xff\"}", "{\"a\": \"\\ud800\"}", "{\"a\": 1e999}",    "{\"a\": 01}"};
    for (const std::string& text : texts) {
        EXPECT_EQ(refusal_of(text).message.rfind("M: not valid JSON: ", 0), 0u) << text;
        EXPECT_EQ(refusal_of(text).status, Status::integrity);
    }
    EXPECT_EQ(refusal_of(std::string(MAX_MANIFEST_BYTES + 1, ' ')).message, "M: 16777217 bytes, over the limit of 16777216");
}

TEST(Manifest, LimitsOfTheJsonItself) {
    EXPECT_EQ(refusal_of(std::string(100'000, '[')).message, "M: not valid JSON: nested deeper than 32 levels");
    EXPECT_EQ(refusal_of(R"({"a": 1, "b": {"c": 1, "c": 2}})").message, "M: not valid JSON: the key 'c' stands twice");
    EXPECT_EQ(refusal_of(R"({"a": {"c": 1}, "b": {"c": 2}})").message, "M: schema_version is missing; this version reads 1.x");
    std::string many = "[0";
    for (int i = 0; i < 200'000; ++i) many += ",0";
    EXPECT_EQ(refusal_of(many + "]").message, "M: not valid JSON: over 200000 values");
}

// Where Python's reader takes a text for a number, and one number for another.
TEST(Manifest, TypesAreExact) {
    const json recorded = golden("manifest.json");
    const std::vector<std::pair<json, std::string>> cases = {
        {json::array({{"digests", "onnx/vision.onnx", "size"}, "1"}), "M: digests.onnx/vision.onnx.size: Input should be a valid integer"},
        {json::array({{"digests", "onnx/vision.onnx", "size"}, 1.0}), "M: digests.onnx/vision.onnx.size: Input should be a valid integer"},
        {json::array({{"digests", "onnx/vision.onnx", "size"}, true}), "M: digests.onnx/vision.onnx.size: Input should be a valid integer"},
        {json::array({{"config", "vision"}, json::array()}), "M: config.vision: Input should be a valid dictionary"},
        {json::array({{"config", "prompt", "stop_ids"}, "0"}), "M: config.prompt.stop_ids: Input should be a valid list"},
        {json::array({{"config", "merge", "protect_first"}, 1}), "M: config.merge.protect_first: Input should be a valid boolean"},
        {json::array({{"config", "merge", "kept_ratio"}, "0.1"}), "M: config.merge.kept_ratio: Input should be a valid number"},
        {json::array({{"config", "language", "width"}, std::int64_t{1} << 40}), "M: config.language.width: Input should be less than or equal to 1048576"},
        {json::array({{"config", "language", "width"}, UINT64_MAX}), "M: config.language.width: Input should be less than or equal to 1048576"},
    };
    for (const auto& [edit, message] : cases)
        EXPECT_EQ(refusal_of(edited(recorded["manifest"], json::array({edit}), recorded["deleted"]).dump()).message, message);
}

TEST(Manifest, NewerMinorVersionIsReadWithAWarning) {
    json content = golden("manifest.json")["manifest"];
    content["schema_version"] = "1.7", content["novelty"] = {{"x", 1}};
    std::string warning;
    manifest_from_text(content.dump(), "M", [&](const std::string& text) { warning = text; });
    EXPECT_EQ(warning, "M: schema_version 1.7 is newer than 1.2; keys left out: ['novelty']");
}

TEST(Manifest, FilesThatAreNone) {
    const Folder folder;
    EXPECT_EQ(refusal([&] { read_manifest(folder / "none"); }).message, (folder / "none") + ": no such bundle");
    EXPECT_EQ(refusal([&] { read_manifest(folder / "none"); }).status, Status::usage);
    EXPECT_EQ(refusal([&] { read_manifest(folder.path()); }).message, folder.path() + ": has no manifest.json");
    write_file(folder / "elsewhere", golden("manifest.json")["manifest"].dump());
    std::filesystem::create_symlink(folder / "elsewhere", folder / "manifest.json");
    EXPECT_EQ(refusal([&] { read_manifest(folder.path()); }).message, folder.path() + ": has no manifest.json");
    std::filesystem::remove(folder / "manifest.json");
    std::filesystem::rename(folder / "elsewhere", folder / "manifest.json");
    EXPECT_EQ(read_manifest(folder.path()).name, "made");
    std::filesystem::resize_file(folder / "manifest.json", MAX_MANIFEST_BYTES + 1);
    EXPECT_EQ(refusal([&] { read_manifest(folder.path()); }).message, (folder / "manifest.json") + ": 16777217 bytes, over the limit of 16777216");
    std::filesystem::remove(folder / "manifest.json");
    ASSERT_EQ(mkfifo((folder / "manifest.json").c_str(), 0600), 0);
    EXPECT_EQ(refusal([&] { read_manifest(folder.path()); }).message, folder.path() + ": has no manifest.json");
}

}  // namespace
}  // namespace aurora::tests
