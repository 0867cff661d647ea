// TensorRT, loaded when a model is opened on it, and one opened engine. Compiled where TensorRT's headers are
// (AURORA_TENSORRT), for their major version. Mirrors TensorRt and TensorRtEngine of runtime/engine_tensorrt.py.
#pragma once
#ifdef AURORA_TENSORRT

#include <NvInferRuntime.h>

#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "contract.h"
#include "cuda_memory.h"
#include "manifest.h"

namespace aurora {

// Keeps the last error that TensorRT told; its threads may call it.
class TensorRtLogger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override;
    std::string last() const;

private:
    mutable std::mutex mutex_;
    std::string last_;
};

// The library, on one GPU: made once, shared by the engines of a bundle.
class TensorRt {
public:
    // library: path of libnvinfer; empty: found. Throws Error: dependency (driver, TensorRT), usage (GPU), incompatible.
    TensorRt(int gpu, const std::string& library);

    std::unique_ptr<nvinfer1::ICudaEngine> deserialize(const std::string& path);
    const Cuda& cuda() const { return cuda_; }
    const std::string& version() const { return version_; }  // as 10.3.0.26
    std::string words() const { return logger_.last(); }

private:
    void load_plugins(nvinfer1::IPluginRegistry* registry) const;

    Cuda cuda_;  // before anything of TensorRT: without a driver its objects crash
    TensorRtLogger logger_;
    std::string version_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
};

// An input or output of a run: where it lies, and an input's shape.
struct BoundTensor {
    const char* name;
    DeviceAddress address;
    bool is_input;
    nvinfer1::Dims shape;
};

using Profiles = std::vector<std::map<std::string, std::array<std::int64_t, 3>>>;

// One engine of a bundle, checked against the contract. Whoever enqueues anything holds the mutex: contexts and the
// stream are of all loops.
class TensorRtGraph {
public:
    // Throws Error: incompatible (TensorRT does not open it, or another contract), resources.
    TensorRtGraph(TensorRt& library, const std::string& path, const GraphSpec& spec, const Profiles& profiles);
    ~TensorRtGraph() { stream_.wait_quietly(); }

    // Enqueues a run. tensors: every input and output. Throws Error(incompatible) for a shape that is not in the profile.
    void execute(int profile, const std::vector<BoundTensor>& tensors);
    std::size_t n_profiles() const { return contexts_.size(); }
    const Stream& stream() const { return stream_; }
    const GraphSpec& spec() const { return spec_; }
    const Cuda& cuda() const { return library_.cuda(); }
    std::mutex& mutex() { return mutex_; }

private:
    nvinfer1::IExecutionContext& context(int profile);

    TensorRt& library_;
    GraphSpec spec_;
    std::string path_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    Stream stream_;
    std::vector<std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;  // of the profiles, made when first needed
    std::mutex mutex_;
};

}  // namespace aurora
#endif
