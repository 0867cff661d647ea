// The libraries of our operators for NVIDIA GPUs: where they are. Mirrors plugins/cuda/__init__.py, but that they lie beside
// libaurora, or in the program that it is linked into, where no variable names their folder.
#pragma once

#include <string>

namespace aurora {

constexpr const char* CUDA_ORT_LIBRARY = "libaurora_ort_cuda.so";         // operators of ONNX Runtime's CUDA provider
constexpr const char* CUDA_TENSORRT_LIBRARY = "libaurora_tensorrt.so";    // plugins of TensorRT
constexpr const char* CUDA_FOLDER = "AURORA_CUDA_LIBRARIES";              // of both; "off": graphs run on the functions they carry

// Where a library is, or would have to be.
std::string expected_cuda_library(const char* name);

// The same if there is a file; else, and where they are switched off, empty.
std::string find_cuda_library(const char* name);

bool are_cuda_libraries_off();

}  // namespace aurora
