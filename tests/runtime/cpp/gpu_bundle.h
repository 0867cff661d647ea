// The testbed's bundle with engines for gpu_stand_in.cpp, whose graphs ONNX Runtime computes.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <memory>

#include "engine.h"
#include "golden.h"
#include "gpu_stand_in.h"
#include "manifest.h"
#include "testbed_model.h"

namespace aurora::tests {

struct Built {
    std::string target = "orin", version = "0.3.0", gpu = "Orin", capability = "8.7";
    std::vector<std::string> compatible;
};

// What the function `name` of a stand-in's library returns: its state. The library stays, for whoever asks the loader.
template <typename StandIn>
void find_stand_in(const char* path, const char* name, StandIn*& found) {
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    ASSERT_NE(library, nullptr) << dlerror();
    void* symbol = dlsym(library, name);
    StandIn* (*show)() = nullptr;
    std::memcpy(&show, &symbol, sizeof show);
    dlclose(library);
    found = show();
}

// A fresh stand-in, and a copy of the testbed's bundle. At its end nothing may be left on the GPU.
class OnStandIn : public ::testing::Test {
protected:
    void SetUp() override {
        // By its name in the loader's list it is what the backend asks for: libcuda.so.1.
        ASSERT_NO_FATAL_FAILURE(find_stand_in(AURORA_GPU_STAND_IN, "gpu_stand_in", gpu));
        gpu->calls.clear(), gpu->plugins.clear();
        gpu->init = 0, gpu->count = 2, gpu->can_capture = gpu->can_run = true, gpu->device_bytes = SIZE_MAX;
        gpu->version[0] = 0, gpu->version[1] = 3;
        setenv("AURORA_CUDA_LIBRARIES", "off", 1);
        bundle = folder / "testbed.aurora";
        std::filesystem::copy(testbed_bundle(), bundle, std::filesystem::copy_options::recursive);
        const Manifest manifest = read_manifest(bundle);
        const GraphSizes sizes(manifest.config);
        EngineOptions one_thread;
        one_thread.n_threads = 1;
        // One for all tests; it stays, as ONNX Runtime itself does.
        static const Engine* const oracle =
            open_onnx_engine({resolve(testbed_bundle(), manifest, "vision"), manifest.contract.at("vision")},
                             {resolve(testbed_bundle(), manifest, "language"), manifest.contract.at("language")}, sizes, one_thread)
                .release();
        vision = oracle->open_vision(), loop = oracle->open_loop();
        gpu->run = [this, sizes](const std::string& graph, const std::map<std::string, void*>& arrays, std::size_t n_tokens) {
            if (graph == "vision") {
                std::memcpy(vision->frame(), arrays.at(FRAMES), sizes.frame_bytes());
                vision->run();
                std::memcpy(arrays.at(VISUAL_TOKENS), vision->visual_tokens(), sizes.n_kept * sizes.width * sizeof(float));
                std::memcpy(arrays.at(TOKEN_SIZES), vision->token_sizes(), sizes.n_kept * sizeof(std::int32_t));
                std::memcpy(arrays.at(TOKEN_OF_PATCH), vision->token_of_patch(), sizes.n_patches * sizeof(std::int32_t));
                return;
            }
            const auto at = [&](const char* name) { return static_cast<float*>(arrays.at(name)); };
            loop->write_state({at(ATT_SHIFT), at(FFN_SHIFT), at(WKV)});
            std::memcpy(loop->input(), at(EMBEDDINGS), n_tokens * sizes.width * sizeof(float));
            loop->feed(n_tokens);
            std::memcpy(at(LOGITS), loop->logits(), sizes.vocabulary_size * sizeof(float));
            loop->read_state({at(NEXT_ATT_SHIFT), at(NEXT_FFN_SHIFT), at(NEXT_WKV)});
        };
    }

    void TearDown() override {
        EXPECT_EQ(gpu->n_device + gpu->n_pinned + gpu->n_streams + gpu->n_events + gpu->n_graphs, 0u);
        EXPECT_EQ(gpu->n_retained + gpu->n_pushed + gpu->n_tensorrt, 0u);
        unsetenv("AURORA_CUDA_LIBRARIES");
    }

    static json described(const std::string& graph, const GraphSpec& spec) {
        json tensors = json::array();
        for (const bool is_input : {true, false})
            for (const TensorSpec& tensor : is_input ? spec.inputs : spec.outputs) {
                json shape = json::array();
                for (const Size& size : tensor.shape) shape.push_back(std::holds_alternative<std::int64_t>(size) ? std::get<std::int64_t>(size) : -1);
                tensors.push_back({{"name", tensor.name}, {"input", is_input}, {"dtype", tensor.dtype}, {"shape", shape}});
            }
        json profiles = json::array({{{"T", {1, 1}}}});
        if (graph == "language") profiles.push_back({{"T", {1, 256}}});
        return {{"graph", graph}, {"tensors", tensors}, {"profiles", profiles}};
    }

    // Put engines for a target into the bundle. change: of what an engine says of itself.
    void write_engines(const Built& built = {}, const std::function<void(const std::string&, json&)>& change = {}) const {
        const std::string path = bundle + "/manifest.json";
        json manifest = json::parse(read_file(path));
        json files;
        for (const auto& [graph, spec] : read_manifest(bundle).contract) {
            const std::string relative = "engines/" + built.target + "/" + graph + ".engine";
            json engine = described(graph, spec);
            if (change) change(graph, engine);
            write_file(bundle + "/" + relative, engine.is_string() ? engine.get<std::string>() : engine.dump());
            files[graph] = relative;
            const FileEntry entry = hash_file(bundle + "/" + relative, {});
            manifest["digests"][relative] = {{"size", entry.size}, {"sha256", entry.sha256}};
        }
        manifest["engines"][built.target] = {
            {"files", files},
            {"builder", {{"tensorrt", built.version}}},
            {"gpu", built.gpu},
            {"compatible", built.compatible},
            {"compute_capabilities", {built.capability}},
            {"profiles",
             {{"vision", json::array({{{"F", {1, 1, 2}}}})},
              {"language", json::array({{{"B", {1, 1, 1}}, {"T", {1, 1, 1}}}, {{"B", {1, 1, 1}}, {"T", {1, 256, 256}}}})}}}};
        write_file(path, manifest.dump());
    }

    aurora_model_options options(const char* device = "tensorrt") const {
        aurora_model_options made = model_options();
        made.n_threads = 1;
        made.device_name = device;
        made.tensorrt_library = AURORA_GPU_STAND_IN;
        return made;
    }
    aurora::Model open(const char* device = "tensorrt") const { return aurora::Model(bundle, options(device)); }

    // The error of opening it.
    Exception refused(const aurora_model_options& made) const {
        try {
            const aurora::Model model(bundle, made);
        } catch (const Exception& error) {
            return error;
        }
        return {AURORA_OK, ""};
    }
    Exception refused() const { return refused(options()); }

    std::size_t n_calls(const std::string& name) const {
        return static_cast<std::size_t>(std::count(gpu->calls.begin(), gpu->calls.end(), name));
    }

    Folder folder;
    std::string bundle;
    GpuStandIn* gpu = nullptr;
    std::unique_ptr<Vision> vision;
    std::unique_ptr<Loop> loop;
};

inline aurora_frame frame_of(const std::vector<std::uint8_t>& pixels) { return rgb(pixels.data(), SIDE, SIDE); }

}  // namespace aurora::tests
