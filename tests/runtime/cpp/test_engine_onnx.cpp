// Both graphs opened, at once and one after the other: the same errors.
#include <gtest/gtest.h>

#include "engine.h"
#include "error.h"
#include "manifest.h"
#include "testbed_model.h"

namespace aurora {
namespace {

constexpr const char *VISION = "vision", *LANGUAGE = "language", *NONE = "vocabulary";

// What opening two files of the testbed's bundle, by their roles, in the places of its graphs says; empty if they open.
std::string refused(const char* vision, const char* language, int n_threads) {
    const std::string bundle = testbed_bundle();
    const Manifest manifest = read_manifest(bundle);
    const auto graph = [&](const char* role, const char* contract) {
        return GraphFile{resolve(bundle, manifest, role), manifest.contract.at(contract)};
    };
    EngineOptions options;
    options.n_threads = n_threads;
    try {
        const auto engine = open_onnx_engine(graph(vision, VISION), graph(language, LANGUAGE), GraphSizes(manifest.config), options);
        engine->open_vision()->run();
        engine->open_loop()->feed(1);
        return "";
    } catch (const Error& error) {
        return std::string(error.what()).substr(bundle.size() + 1);
    }
}

TEST(EngineOnnx, BothGraphsAreOpenedWithOneThreadAndWithMore) {
    for (const int n_threads : {1, 2}) EXPECT_EQ(refused(VISION, LANGUAGE, n_threads), "");
}

TEST(EngineOnnx, ErrorsAreThoseOfOneAfterTheOther) {
    for (const int n_threads : {1, 2}) {
        EXPECT_EQ(refused(VISION, NONE, n_threads).rfind("tokenizer/vocabulary.txt: ONNX Runtime cannot open this graph", 0), 0U);
        EXPECT_EQ(refused(NONE, LANGUAGE, n_threads).rfind("tokenizer/vocabulary.txt: ONNX Runtime cannot open this graph", 0), 0U);
        EXPECT_EQ(refused(VISION, VISION, n_threads).rfind("onnx/vision.onnx: the graph is not as the contract says", 0), 0U);
        // Of two errors vision's, though language's comes sooner.
        EXPECT_EQ(refused(LANGUAGE, NONE, n_threads).rfind("onnx/language.onnx: the graph is not as the contract says", 0), 0U);
    }
}

}  // namespace
}  // namespace aurora
