// The CUDA provider of ONNX Runtime, against stand-ins: for the driver, for the provider (onnxruntime_stand_in.cpp), and for
// the library of our operators, in whose place is one with those for the CPU. None of this is a GPU.
#include <filesystem>

#include "gpu_bundle.h"
#include "onnxruntime_stand_in.h"

namespace aurora::tests {
namespace {

class OnnxCuda : public OnStandIn {
protected:
    void SetUp() override {
        ASSERT_NO_FATAL_FAILURE(OnStandIn::SetUp());
        ASSERT_NO_FATAL_FAILURE(find_stand_in(AURORA_ONNXRUNTIME_STAND_IN, "onnxruntime_stand_in", runtime));
        *runtime = {};
        setenv("AURORA_CUDA_LIBRARIES", AURORA_CUDA_OPERATORS, 1);
    }
    void TearDown() override {
        EXPECT_EQ(runtime->n_provider_options, 0u);
        OnStandIn::TearDown();
    }
    static aurora_model_options cuda(const char* device = "cuda") {
        aurora_model_options made = model_options();
        made.n_threads = 1;
        made.device_name = device;
        made.onnxruntime_library = AURORA_ONNXRUNTIME_STAND_IN;
        return made;
    }
    // The error of opening it with libraries of this folder.
    Exception refused_with(const std::string& libraries) const {
        setenv("AURORA_CUDA_LIBRARIES", libraries.c_str(), 1);
        return refused(cuda());
    }
    static std::string answer(const aurora::Model& model) {
        aurora::Session session(model);
        session.watch(rgb(picture(1).data(), SIDE, SIDE));
        return session.ask("What is shown?");
    }

    OnnxRuntimeStandIn* runtime = nullptr;
};

TEST_F(OnnxCuda, BothGraphsRunThereWithOurOperators) {
    const std::string expected = answer(open_testbed());
    const aurora::Model model(bundle, cuda("cuda:1"));
    EXPECT_NE(std::string(model.info()).find("onnxruntime-cuda"), std::string::npos);
    EXPECT_EQ(answer(model), expected);
    const std::map<std::string, std::string> options{{"device_id", "1"}, {"use_tf32", "0"}};
    EXPECT_EQ(runtime->appended, (std::vector<std::map<std::string, std::string>>{options, options}));
    EXPECT_EQ(runtime->n_domains, 2u);
}

TEST_F(OnnxCuda, WithoutThemIfTheyAreSwitchedOff) {
    std::string warnings;
    aurora_model_options made = cuda();
    made.log = [](void* user, aurora_log_level level, const char* text) {
        if (level == AURORA_LOG_WARNING) static_cast<std::string*>(user)->append(text);
    };
    made.log_user = &warnings;
    setenv("AURORA_CUDA_LIBRARIES", "off", 1);
    EXPECT_FALSE(answer(aurora::Model(bundle, made)).empty());
    EXPECT_EQ(warnings, "AURORA_CUDA_LIBRARIES is off: WKV runs as the graph's own function, slowly");
    EXPECT_EQ(runtime->n_domains, 0u);
}

TEST_F(OnnxCuda, NotBuilt) {
    const Exception error = refused_with(folder.path());
    EXPECT_EQ(error.status(), AURORA_ERROR_DEPENDENCY);
    const std::string text = error.what();
    EXPECT_EQ(text.rfind((folder / "libaurora_ort_cuda.so") + " was not built (see plugins/cuda/README.md: cmake builds ", 0), 0u) << text;
    EXPECT_NE(text.find("AURORA_CUDA_LIBRARIES=off runs slowly without it"), std::string::npos) << text;
    // Without the variable it lies beside libaurora, which is in the program here.
    EXPECT_NE(std::string(refused_with("").what()).find("/tests/libaurora_ort_cuda.so was not built"), std::string::npos);
}

TEST_F(OnnxCuda, AnotherLibraryInItsPlace) {
    const std::string path = folder / "libaurora_ort_cuda.so", begin = path + ": ONNX Runtime cannot use this library: ";
    const auto expect_refused = [&](const std::string& libraries, const std::string& begin_of_text) {
        const Exception error = refused_with(libraries);
        EXPECT_EQ(error.status(), AURORA_ERROR_INCOMPATIBLE);
        EXPECT_EQ(std::string(error.what()).rfind(begin_of_text, 0), 0u) << error.what();
    };
    write_file(path, "no library");
    expect_refused(folder.path(), begin + path + ": file too short");
    std::filesystem::remove(path);
    std::filesystem::copy_file(AURORA_ONNXRUNTIME_STAND_IN, path);
    expect_refused(folder.path(), begin + "it has no RegisterCustomOps");
    runtime->takes_domains = false;
    const std::string built = AURORA_CUDA_OPERATORS "/libaurora_ort_cuda.so";
    expect_refused(AURORA_CUDA_OPERATORS, built + ": ONNX Runtime cannot use this library: RegisterCustomOps: no more domains (");
}

TEST_F(OnnxCuda, AnOnnxRuntimeForTheCpu) {
    aurora_model_options made = cuda();
    made.onnxruntime_library = nullptr;
    const Exception error = refused(made);
    EXPECT_EQ(error.status(), AURORA_ERROR_DEPENDENCY);
    EXPECT_EQ(std::string(error.what()).rfind("ONNX Runtime cannot use a GPU: CUDA: ", 0), 0u) << error.what();
}

}  // namespace
}  // namespace aurora::tests
