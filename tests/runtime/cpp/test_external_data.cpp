// Weights outside an ONNX file are found wherever they stand, and stay inside the bundle.
#include "external_data.h"

#include "golden.h"

namespace aurora::tests {
namespace {

std::string corpus(const std::string& name) { return read_file(std::string(AURORA_TEST_DATA) + "/corpus/external_data/" + name); }

TEST(ExternalData, FoundInGraphConstantSubgraphAndFunction) {
    std::map<std::string, int> found;
    for (const ExternalData& data : find_external_data(corpus("0"))) {
        ++found[data.location];
        EXPECT_EQ(data.offset, 8u);
        EXPECT_EQ(data.length, 8u);
    }
    // The constant stands in the graph, twice in the subgraph, and in the function.
    EXPECT_EQ(found, (std::map<std::string, int>{{"a.data", 4}, {"b.data", 2}, {"model.onnx.data", 1}}));
}

std::string field(int number, const std::string& content) {
    std::string bytes(1, static_cast<char>(number << 3 | 2));
    for (std::size_t n = content.size();; n >>= 7) {
        bytes += static_cast<char>((n & 0x7F) | (n > 0x7F ? 0x80 : 0));
        if (n <= 0x7F) return bytes + content;
    }
}

// A model with one initializer whose data lies there.
std::string model_with(const std::vector<std::pair<std::string, std::string>>& entries) {
    std::string tensor;
    for (const auto& [key, value] : entries) tensor += field(13, field(1, key) + field(2, value));
    return field(7, field(5, tensor));
}

struct Bundle {
    Folder folder;
    Manifest manifest;

    Bundle() {
        manifest.files["vision"] = "onnx/vision.onnx";
        manifest.digests["onnx/vision.onnx.data"].size = 100;
        manifest.digests["secret"].size = 100;
    }
    std::string refused(const std::string& model) {
        write_file(folder / "onnx/vision.onnx", model);
        const Refusal found = refusal([&] { check_external_data(folder.path(), manifest, "vision"); });
        if (found.message.empty()) return "";
        EXPECT_EQ(found.status, Status::integrity);
        const std::string prefix = (folder / "onnx/vision.onnx") + ": ";
        EXPECT_EQ(found.message.rfind(prefix, 0), 0u);
        return found.message.substr(prefix.size());
    }
};

TEST(ExternalData, StaysInsideTheBundle) {
    Bundle bundle;
    EXPECT_EQ(bundle.refused(model_with({{"location", "vision.onnx.data"}, {"offset", "40"}, {"length", "60"}})), "");
    EXPECT_EQ(bundle.refused(model_with({})), "");
    for (const std::string path : {"../secret", "/etc/passwd", "", ".", "a/../../secret", "C:x", "./vision.onnx.data"})
        EXPECT_EQ(bundle.refused(model_with({{"location", path}})), "'" + path + "' is not a plain path inside the bundle");
    EXPECT_EQ(bundle.refused(model_with({{"location", "secret"}})), "its weights lie in 'secret', which the manifest does not name");
    EXPECT_EQ(bundle.refused(model_with({{"location", "vision.onnx.data"}, {"offset", "90"}, {"length", "11"}})),
              "weights of 11 bytes from 90 on; onnx/vision.onnx.data has 100 bytes");
    EXPECT_EQ(bundle.refused(model_with({{"location", "vision.onnx.data"}, {"offset", "101"}})),
              "weights of 0 bytes from 101 on; onnx/vision.onnx.data has 100 bytes");
    EXPECT_EQ(bundle.refused(model_with({{"location", "vision.onnx.data"}, {"offset", "18446744073709551615"}, {"length", "2"}})),
              "weights of 2 bytes from 18446744073709551615 on; onnx/vision.onnx.data has 100 bytes");
}

TEST(ExternalData, NoOnnxFile) {
    Bundle bundle;
    EXPECT_EQ(bundle.refused(""), "not an ONNX graph: it is empty");
    EXPECT_EQ(bundle.refused("\x07"), "not an ONNX graph: a field in it has an unknown type");
    EXPECT_EQ(bundle.refused("\x3a\x7f"), "not an ONNX graph: a field in it ends behind the file");
    EXPECT_EQ(bundle.refused(std::string(20, '\xff')), "not an ONNX graph: a number in it has over ten bytes");
    EXPECT_EQ(bundle.refused(model_with({{"location", "x"}, {"offset", "-1"}})), "not an ONNX graph: the offset of external data is no number");
    // A subgraph in an attribute of a node in a subgraph, and so on.
    std::string graph = field(5, "");
    for (int depth = 0; depth < 40; ++depth) graph = field(1, field(5, field(6, graph)));
    EXPECT_EQ(bundle.refused(field(7, graph)), "not an ONNX graph: its graphs are nested deeper than 64 levels");
}

}  // namespace
}  // namespace aurora::tests
