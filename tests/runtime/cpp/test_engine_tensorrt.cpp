// Engines of TensorRT over a stand-in for TensorRT and CUDA: the testbed's answers, the order of the work, refusals.
#include <algorithm>
#include <cstdio>
#include <future>

#include "device.h"
#include "gpu_bundle.h"
#include "nvidia_driver.h"

namespace aurora::tests {
namespace {

using EngineTensorRt = OnStandIn;

TEST_F(EngineTensorRt, ASessionAnswersAsOnTheCpu) {
    write_engines();
    const aurora::Model on_cpu = open("cpu"), on_gpu = open();
    EXPECT_NE(on_gpu.info().find("\"backend\":\"tensorrt\""), std::string::npos);
    EXPECT_NE(on_gpu.info().find("TensorRT 0.3.0.26"), std::string::npos);
    aurora::Session plain(on_cpu), session(on_gpu);
    for (std::uint32_t i = 0; i < 4; ++i) {
        const auto pixels = picture(i);
        plain.watch(frame_of(pixels)), session.watch(frame_of(pixels));
        const auto expected = plain.visual_tokens().all, found = session.visual_tokens().all;
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found.begin()));
    }
    for (const char* question : {"What is shown?", "How many objects appear?"}) {
        aurora::Session one = plain.clone(), other = session.clone();
        EXPECT_EQ(one.ask(question), other.ask(question));
        const auto expected = one.logits(), found = other.logits();
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), found.begin()));
    }
    const std::vector<std::uint8_t> state = plain.save();
    aurora::Session continued(on_gpu);
    continued.load({state.data(), state.size()});
    EXPECT_EQ(continued.ask("What moves?"), session.ask("What moves?"));
    session.reset();
    EXPECT_THROW(session.ask("What?"), Exception);
}

TEST_F(EngineTensorRt, VisionOfTheNextFrameDoesNotWaitForPrefill) {
    write_engines();
    const aurora::Model model = open();
    aurora::Session session(model);
    session.watch(frame_of(picture(0)));  // contexts are made now, and waited for
    for (std::uint32_t i = 1; i < 4; ++i) {
        gpu->calls.clear();
        session.watch(frame_of(picture(i)));
        EXPECT_EQ(n_calls("wait"), 0u);
        EXPECT_EQ(n_calls("execute vision 0"), 1u);
        const auto waiting = gpu->waiting();
        EXPECT_GE(std::count(waiting.begin(), waiting.end(), "execute language 1"), 1) << "the prefill was waited for";
        EXPECT_EQ(std::count(waiting.begin(), waiting.end(), "execute vision 0"), 0);
    }
    EXPECT_FALSE(session.ask("What is shown?").empty());
}

TEST_F(EngineTensorRt, TheStepIsCapturedOnceForEachDirection) {
    write_engines();
    const aurora::Model model = open();
    aurora::Session session(model);
    session.watch(frame_of(picture(0)));
    gpu->calls.clear();
    aurora_ask_options ask = ask_options();
    ask.temperature = 4;
    std::uint32_t n_tokens = 0;
    for (ask.seed = 0; ask.seed < 20; ++ask.seed) n_tokens += session.ask("What is shown?", [](std::string_view) {}, ask).n_tokens;
    EXPECT_EQ(n_calls("launch"), n_tokens - 1);
    EXPECT_EQ(n_calls("execute language 0"), 3u) << "one as it is, and one captured for each direction";
    EXPECT_EQ(n_calls("wait"), 1u) << "for the context of the step";
    const std::size_t n_device = gpu->n_device;
    { aurora::Session gone = session.clone(); }
    const std::size_t n_more = gpu->n_device;
    { aurora::Session again = session.clone(); }
    EXPECT_GT(n_more, n_device) << "buffers of a loop that is gone are kept";
    EXPECT_EQ(gpu->n_device, n_more) << "and taken again";
}

TEST_F(EngineTensorRt, WhereNothingCanBeCapturedItStepsWithout) {
    write_engines();
    const aurora::Model on_cpu = open("cpu"), on_gpu = open();
    gpu->can_capture = false;
    aurora::Session plain(on_cpu), session(on_gpu);
    plain.watch(frame_of(picture(3))), session.watch(frame_of(picture(3)));
    EXPECT_EQ(session.ask("What is shown?"), plain.ask("What is shown?"));
    EXPECT_EQ(n_calls("launch"), 0u);
}

TEST_F(EngineTensorRt, ThreadsShareAModel) {
    write_engines();
    const aurora::Model on_cpu = open("cpu"), on_gpu = open();
    const auto answer = [](const aurora::Model& model, std::uint32_t seed) {
        aurora::Session session(model);
        for (std::uint32_t i = 0; i < 3; ++i) session.watch(frame_of(picture(seed + i)));
        return session.ask("What is shown?");
    };
    std::vector<std::future<std::string>> found;
    for (std::uint32_t i = 0; i < 3; ++i) found.push_back(std::async(std::launch::async, [&, i] { return answer(on_gpu, 7 * i); }));
    for (std::uint32_t i = 0; i < 3; ++i) EXPECT_EQ(found[i].get(), answer(on_cpu, 7 * i));
}

TEST_F(EngineTensorRt, EnginesThatDoNotFitAreRefusedByTheField) {
    const std::vector<std::pair<Built, std::string>> cases = {
        {{"orin", "0.16.1", "Orin", "8.7", {}}, "TensorRT is 0.16.1, here 0.3.0"},
        {{"orin", "0.3.0.27", "Orin", "8.7", {}}, "TensorRT is 0.3.0.27, here 0.3.0.26"},
        {{"orin", "0.4.0", "Orin", "8.7", {"version"}}, "TensorRT is 0.4.0, here 0.3.0"},
        {{"orin", "9.0.0", "Orin", "8.7", {"version"}}, "TensorRT is 9.0.0, here 0.3.0"},
        {{"orin", "0.3.0", "Orin", "9.0", {}}, "compute capability is 9.0, here 8.7"},
        {{"orin", "0.3.0", "Orin NX", "8.7", {}}, "GPU is Orin NX, here Orin"},
    };
    for (const auto& [built, difference] : cases) {
        write_engines(built);
        const Exception error = refused();
        EXPECT_EQ(error.status(), AURORA_ERROR_INCOMPATIBLE);
        EXPECT_EQ(std::string(error.what()), bundle + ": engines/orin: " + difference + " (aurora-export build " + bundle +
                                                 " --target orin   (on this device))");
    }
    EXPECT_EQ(open("cpu").info().find("tensorrt"), std::string::npos) << "ONNX Runtime opens the bundle all the same";
}

TEST_F(EngineTensorRt, EnginesThatAreCompatibleAreOpened) {
    write_engines({"another", "0.9.9", "other", "8.7", {}});  // those that fit are found
    const std::vector<Built> cases = {{"orin", "0.2.0", "Orin", "8.7", {"version"}},
                                      {"orin", "0.3.0", "A40", "8.6", {"ampere+"}},
                                      {"orin", "0.3.0", "Orin NX", "8.7", {"same"}},
                                      {"orin", "0.3", "Orin", "8.7", {}}};
    for (const Built& built : cases) {
        write_engines(built);
        EXPECT_EQ(std::string(refused().what()), "");
    }
}

TEST_F(EngineTensorRt, ABundleWithoutEngines) {
    const Exception error = refused();
    EXPECT_EQ(error.status(), AURORA_ERROR_INCOMPATIBLE);
    EXPECT_NE(std::string(error.what()).find("has no engines of TensorRT (aurora-export build " + bundle + " --target tensorrt"), std::string::npos);
}

TEST_F(EngineTensorRt, DigestsComeFirst) {
    write_engines();
    write_file(bundle + "/engines/orin/language.engine", "no engine");
    EXPECT_EQ(refused().status(), AURORA_ERROR_INTEGRITY);
    EXPECT_EQ(gpu->n_retained, 0u);
}

TEST_F(EngineTensorRt, WhatTensorRtDoesNotOpenIsRefusedWithItsWords) {
    write_engines({}, [](const std::string& graph, json& engine) {
        if (graph == "language") engine = "no engine";
    });
    const Exception error = refused();
    EXPECT_EQ(error.status(), AURORA_ERROR_INCOMPATIBLE);
    EXPECT_NE(std::string(error.what()).find("language.engine: TensorRT 0.3.0.26 does not open it: the magic tag does not match"), std::string::npos);
}

TEST_F(EngineTensorRt, AnotherContractIsNamed) {
    const auto text_of = [&](const std::function<void(json&)>& change) {
        write_engines({}, [&](const std::string& graph, json& engine) {
            if (graph == "language") change(engine);
        });
        const Exception error = refused();
        EXPECT_EQ(error.status(), AURORA_ERROR_INCOMPATIBLE);
        return std::string(error.what());
    };
    const auto has = [](const std::string& text, const std::string& part) { return text.find(part) != text.npos; };
    EXPECT_TRUE(has(text_of([](json& engine) { engine["tensors"][4]["shape"][1] = 7; }), "logits is output float32 (-1, 7), expected output float32 ('B', "));
    EXPECT_TRUE(has(text_of([](json& engine) { engine["tensors"][0]["dtype"] = "float16"; }), "embeddings is input type 1 "));
    EXPECT_TRUE(has(text_of([](json& engine) { engine["tensors"][0]["name"] = "other"; }), "embeddings is missing; other is unknown"));
    EXPECT_TRUE(has(text_of([](json& engine) { engine["profiles"].erase(1); }), "1 profiles, expected 2"));
}

TEST_F(EngineTensorRt, WhatIsMissingIsNamed) {
    write_engines();
    const auto text_of = [&](const aurora_model_options& made, aurora_status status) {
        const Exception error = refused(made);
        EXPECT_EQ(error.status(), status) << error.what();
        return std::string(error.what());
    };
    const auto has = [](const std::string& text, const std::string& part) { return text.find(part) != text.npos; };
    aurora_model_options made = options();
    made.tensorrt_library = "/nowhere/libnvinfer.so";
    EXPECT_TRUE(has(text_of(made, AURORA_ERROR_DEPENDENCY), "TensorRT cannot be loaded: /nowhere/libnvinfer.so"));
    made.tensorrt_library = "libm.so.6";
    EXPECT_TRUE(has(text_of(made, AURORA_ERROR_DEPENDENCY), "libm.so.6 is not TensorRT"));
    gpu->version[0] = 11;
    EXPECT_TRUE(has(text_of(options(), AURORA_ERROR_DEPENDENCY), "is TensorRT 11.3.0.26; this libaurora was compiled for TensorRT 0"));
    gpu->version[0] = 0;
    EXPECT_TRUE(has(text_of(options("tensorrt:2"), AURORA_ERROR_USAGE), "there is no GPU 2 (there are: 0 (Orin), 1 (Thor))"));
    EXPECT_TRUE(has(text_of(options("tensorrt:1"), AURORA_ERROR_INCOMPATIBLE), "compute capability is 8.7, here 11.0"));
    gpu->init = 999;
    EXPECT_TRUE(has(text_of(options(), AURORA_ERROR_DEPENDENCY), "the NVIDIA driver does not start: CUDA_ERROR_UNKNOWN"));
    gpu->init = 100;
    EXPECT_TRUE(has(text_of(options(), AURORA_ERROR_DEPENDENCY), "the NVIDIA driver sees no GPU"));
    const Refusal driver = refusal([] { Driver("libno_such_driver.so.1"); });
    EXPECT_EQ(driver.status, Status::dependency);
    EXPECT_TRUE(has(driver.message, "no NVIDIA driver"));
    EXPECT_TRUE(has(refusal([] { Driver("libm.so.6"); }).message, "libm.so.6 has no cuInit"));
}

TEST_F(EngineTensorRt, PluginsAreLoaded) {
    write_engines();
    write_file(folder / "plugins/libaurora_tensorrt.so", "");
    setenv("AURORA_CUDA_LIBRARIES", (folder / "plugins").c_str(), 1);
    open();
    EXPECT_EQ(gpu->plugins, folder / "plugins/libaurora_tensorrt.so");
    write_file(folder / "unfit/libaurora_tensorrt.so", "");
    setenv("AURORA_CUDA_LIBRARIES", (folder / "unfit").c_str(), 1);
    EXPECT_NE(std::string(refused().what()).find("unfit/libaurora_tensorrt.so: TensorRT 0.3.0.26 does not load it"), std::string::npos);
}

TEST_F(EngineTensorRt, AGpuWithoutMemory) {
    write_engines();
    const aurora::Model model = open();
    for (std::size_t n_bytes : {100u, 40000u}) {  // in the frame's buffers, and in the loop's
        gpu->device_bytes = n_bytes;
        try {
            aurora::Session session(model);
            ADD_FAILURE() << "it has memory for everything";
        } catch (const Exception& error) {
            EXPECT_EQ(error.status(), AURORA_ERROR_RESOURCES);
            EXPECT_NE(std::string(error.what()).find("the GPU's memory ran out"), std::string::npos);
        }
        EXPECT_EQ(gpu->n_device, 0u);
    }
}

TEST_F(EngineTensorRt, ARunThatFailsLeavesTheStateAndSaysWhy) {
    write_engines();
    const aurora::Model model = open();
    aurora::Session session(model);
    session.watch(frame_of(picture(0)));
    const std::vector<std::uint8_t> before = session.save();
    gpu->can_run = false;
    try {
        session.watch(frame_of(picture(1)));
        ADD_FAILURE() << "it ran";
    } catch (const Exception& error) {
        EXPECT_EQ(error.status(), AURORA_ERROR_UNEXPECTED);
        EXPECT_NE(std::string(error.what()).find("TensorRT does not run: it cannot run"), std::string::npos);
    }
    EXPECT_EQ(session.save(), before);
    gpu->can_run = true;
    session.watch(frame_of(picture(1)));
}

TEST(Device, NamesAreThoseOfTheCommandLine) {
    EXPECT_EQ(parse_device("cpu").backend, DeviceBackend::cpu);
    EXPECT_EQ(parse_device("cuda").index, 0);
    EXPECT_EQ(parse_device("cuda:12").index, 12);
    EXPECT_EQ(parse_device("tensorrt:1").backend, DeviceBackend::tensorrt);
    for (const char* text : {"", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:1000", "cuda:-1", "tensorrt1", "CUDA"})
        EXPECT_EQ(refusal([&] { parse_device(text); }).message, "unknown device '" + std::string(text) + "'");
}

}  // namespace
}  // namespace aurora::tests
