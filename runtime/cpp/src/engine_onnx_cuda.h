// ONNX Runtime on an NVIDIA GPU: what a session needs there. Mirrors runtime/engine_onnx_cuda.py. Never run on a GPU so far;
// the tests run this code against a stand-in for the provider.
#pragma once

#include "onnxruntime_library.h"

namespace aurora {

// Let a session run on a GPU. Throws Error(dependency) if this ONNX Runtime, or this machine, has none.
void append_cuda_provider(const OnnxRuntime& runtime, OrtSessionOptions* options, int gpu);

// Give a session our operators on the GPU; none where they are switched off. Throws Error: dependency if they were not
// built (a graph would run without them, a token at a time), incompatible for a library that does not fit.
void register_cuda_operators(const OnnxRuntime& runtime, OrtSessionOptions* options);

}  // namespace aurora
