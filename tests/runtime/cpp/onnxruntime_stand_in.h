// ONNX Runtime with a CUDA provider that is none: the table of the real library, which AURORA_ONNXRUNTIME names, with the
// provider's entries of this file in it. Sessions run on the CPU.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

struct OnnxRuntimeStandIn {
    std::vector<std::map<std::string, std::string>> appended;  // options of the provider, for each session
    std::size_t n_provider_options = 0;                        // that are not released
    std::size_t n_domains = 0;                                 // of operators, added to sessions
    bool takes_domains = true;
};

extern "C" OnnxRuntimeStandIn* onnxruntime_stand_in();
