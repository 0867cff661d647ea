#include "engine_onnx_cuda.h"

#include <dlfcn.h>

#include <cstring>

#include "cuda_libraries.h"
#include "error.h"

namespace aurora {
namespace {

using CudaOptions = Owned<OrtCUDAProviderOptionsV2, ort::ReleaseCudaProviderOptions>;

constexpr const char* BUILD =
    "see plugins/cuda/README.md: cmake builds libaurora_ort_cuda.so where nvcc is; it lies beside libaurora, or in the folder "
    "that AURORA_CUDA_LIBRARIES names";

}  // namespace

void append_cuda_provider(const OnnxRuntime& runtime, OrtSessionOptions* options, int gpu) {
    CudaOptions cuda(runtime.api());
    OrtStatus* status = ort::CreateCudaProviderOptions::call(runtime.api(), cuda.out());
    // TF32 is off: merging compares similarities, and the recurrence sums for long.
    const std::string index = std::to_string(gpu);
    const char *keys[] = {"device_id", "use_tf32"}, *values[] = {index.c_str(), "0"};
    if (status == nullptr) status = ort::UpdateCudaProviderOptions::call(runtime.api(), cuda.get(), keys, values, 2);
    if (status == nullptr) status = ort::AppendCudaProvider::call(runtime.api(), options, cuda.get());
    try {
        runtime.check(status, "CUDA");
    } catch (const Error& error) {
        throw Error(Status::dependency, std::string("ONNX Runtime cannot use a GPU: ") + error.what(),
                    "install onnxruntime-gpu with its CUDA libraries, or use the CPU");
    }
}

void register_cuda_operators(const OnnxRuntime& runtime, OrtSessionOptions* options) {
    if (are_cuda_libraries_off()) return;
    const std::string path = find_cuda_library(CUDA_ORT_LIBRARY);
    if (path.empty())
        throw Error(Status::dependency, expected_cuda_library(CUDA_ORT_LIBRARY) + " was not built",
                    std::string(BUILD) + "; " + CUDA_FOLDER + "=off runs slowly without it");
    const auto refuse = [&](const std::string& reason) {
        throw Error(Status::incompatible, path + ": ONNX Runtime cannot use this library: " + reason, BUILD);
    };
    // As ONNX Runtime itself registers a library, but that it stays: kernels may outlive every session.
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) {
        const char* reason = dlerror();
        refuse(reason == nullptr ? "it is not loaded" : reason);
    }
    void* symbol = dlsym(library, "RegisterCustomOps");
    dlclose(library);
    if (symbol == nullptr) refuse("it has no RegisterCustomOps");
    decltype(&RegisterCustomOps) registered;
    std::memcpy(&registered, &symbol, sizeof registered);
    try {
        runtime.check(registered(options, runtime.base()), "RegisterCustomOps");
    } catch (const Error& error) {
        refuse(error.what());
    }
}

}  // namespace aurora
