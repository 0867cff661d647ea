#include "tensorrt_library.h"
#ifdef AURORA_TENSORRT

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda_libraries.h"
#include "error.h"
#include "mapped_file.h"

namespace aurora {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

#define AURORA_TEXT_OF(x) #x
#define AURORA_TEXT(x) AURORA_TEXT_OF(x)
constexpr const char* MAJOR = AURORA_TEXT(NV_TENSORRT_MAJOR);
constexpr const char* LIBRARY = "libnvinfer.so." AURORA_TEXT(NV_TENSORRT_MAJOR);
// NV_TENSORRT_VERSION, which our declarations for tests leave out.
constexpr std::int32_t HEADERS = NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
constexpr const char* INSTALL_TENSORRT =
    "a Jetson has it (JetPack); elsewhere install NVIDIA's package, or name its libnvinfer.so in the option tensorrt_library "
    "or in AURORA_TENSORRT; see docs/DEVICES.md";

constexpr const char* BUILD_PLUGINS =
    "see plugins/cuda/README.md: cmake builds libaurora_tensorrt.so where nvcc is; it lies beside libaurora, or in the folder "
    "that AURORA_CUDA_LIBRARIES names";

template <typename Function>
Function* symbol(void* library, const char* name, const std::string& path) {
    void* found = dlsym(library, name);
    if (found == nullptr) throw Error(Status::dependency, path + " is not TensorRT 10 or newer: it has no " + name, INSTALL_TENSORRT);
    Function* function = nullptr;
    static_assert(sizeof function == sizeof found, "pointers to functions fit in void*");
    std::memcpy(&function, &found, sizeof function);
    return function;
}

// It is never unloaded: its threads and exit handlers may outlive every model.
void* load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) {
        const char* reason = dlerror();
        throw Error(Status::dependency, std::string("TensorRT cannot be loaded: ") + (reason == nullptr ? path : reason),
                    INSTALL_TENSORRT);
    }
    dlclose(library);  // it stays
    return library;
}

std::string type_name(DataType type) {
    if (type == DataType::kFLOAT) return "float32";
    if (type == DataType::kUINT8) return "uint8";
    if (type == DataType::kINT32) return "int32";
    return "type " + std::to_string(static_cast<int>(type));
}

std::string shape_text(const Dims& shape) {
    std::string text;
    for (int i = 0; i < shape.nbDims; ++i) text += (i ? ", " : "") + std::to_string(shape.d[i]);
    return "(" + text + (shape.nbDims == 1 ? ",)" : ")");
}

std::string shape_text(const std::vector<Size>& shape) {
    std::string text;
    for (std::size_t i = 0; i < shape.size(); ++i) {
        const auto* fixed = std::get_if<std::int64_t>(&shape[i]);
        text += (i ? ", " : "") + (fixed ? std::to_string(*fixed) : "'" + std::get<std::string>(shape[i]) + "'");
    }
    return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

// A size that every profile fixes may be fixed in the engine; one that the contract fixes never differs.
bool agrees(const std::vector<Size>& expected, const Dims& found) {
    if (found.nbDims < 0 || expected.size() != static_cast<std::size_t>(found.nbDims)) return false;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto* fixed = std::get_if<std::int64_t>(&expected[i]);
        if (fixed != nullptr && found.d[i] != *fixed && found.d[i] != -1) return false;
    }
    return true;
}

// What the engine has otherwise than the contract.
std::vector<std::string> differences(nvinfer1::ICudaEngine& engine, const GraphSpec& spec) {
    std::vector<std::string> problems;
    std::map<std::string, bool> unseen;
    for (int i = 0; i < engine.getNbIOTensors(); ++i) unseen[engine.getIOTensorName(i)] = true;
    for (const bool is_input : {true, false})
        for (const TensorSpec& tensor : is_input ? spec.inputs : spec.outputs) {
            if (unseen.erase(tensor.name) == 0) {
                problems.push_back(tensor.name + " is missing");
                continue;
            }
            const char* name = tensor.name.c_str();
            const bool found_input = engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
            const std::string type = type_name(engine.getTensorDataType(name));
            const Dims shape = engine.getTensorShape(name);
            if (found_input != is_input || type != tensor.dtype || !agrees(tensor.shape, shape))
                problems.push_back(tensor.name + " is " + (found_input ? "input " : "output ") + type + " " + shape_text(shape) +
                                   ", expected " + (is_input ? "input " : "output ") + tensor.dtype + " " +
                                   shape_text(tensor.shape));
        }
    for (const auto& entry : unseen) problems.push_back(entry.first + " is unknown");
    std::sort(problems.begin(), problems.end());
    return problems;
}

}  // namespace

void TensorRtLogger::log(Severity severity, const nvinfer1::AsciiChar* message) noexcept {
    if (severity > Severity::kERROR || message == nullptr) return;
    try {
        const std::lock_guard<std::mutex> lock(mutex_);
        last_ = message;
    } catch (...) {
        // Without memory for it, its words are lost.
    }
}

std::string TensorRtLogger::last() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_.empty() ? "no reason given" : last_;
}

TensorRt::TensorRt(int gpu, const std::string& library) : cuda_(gpu) {
    const char* named = std::getenv("AURORA_TENSORRT");
    const std::string path = !library.empty() ? library : named != nullptr && *named != '\0' ? named : LIBRARY;
    void* loaded = load(path);
    const char* parts[] = {"getInferLibMajorVersion", "getInferLibMinorVersion", "getInferLibPatchVersion", "getInferLibBuildVersion"};
    for (const char* part : parts) version_ += (version_.empty() ? "" : ".") + std::to_string(symbol<int32_t()>(loaded, part, path)());
    if (version_.substr(0, version_.find('.')) != MAJOR)
        throw Error(Status::dependency, path + " is TensorRT " + version_ + "; this libaurora was compiled for TensorRT " + MAJOR,
                    std::string("name a ") + LIBRARY + " in tensorrt_library, or compile libaurora with the headers of that version");
    const Cuda::Current current(cuda_);
    load_plugins(symbol<nvinfer1::IPluginRegistry*()>(loaded, "getPluginRegistry", path)());
    auto* create = symbol<void*(void*, int32_t)>(loaded, "createInferRuntime_INTERNAL", path);
    runtime_.reset(static_cast<nvinfer1::IRuntime*>(create(static_cast<nvinfer1::ILogger*>(&logger_), HEADERS)));
    if (runtime_ == nullptr) throw Error(Status::unexpected, "TensorRT " + version_ + " makes no runtime: " + words());
}

void TensorRt::load_plugins(nvinfer1::IPluginRegistry* registry) const {
    const std::string path = find_cuda_library(CUDA_TENSORRT_LIBRARY);
    // The registry is the process's: another model may have brought them already.
    if (path.empty() || registry == nullptr || registry->getCreator("Wkv6", "1", "aurora") != nullptr) return;
    if (registry->loadLibrary(path.c_str()) == nullptr)
        throw Error(Status::incompatible, path + ": TensorRT " + version_ + " does not load it", BUILD_PLUGINS);
}

std::unique_ptr<nvinfer1::ICudaEngine> TensorRt::deserialize(const std::string& path) {
    // Mapped: it may have gigabytes, and TensorRT reads it once.
    const MappedFile file(path, "no engine", "copy the bundle again from where it came from");
    std::unique_ptr<nvinfer1::ICudaEngine> engine(runtime_->deserializeCudaEngine(file.data(), file.size()));
    if (engine == nullptr)
        throw Error(Status::incompatible, path + ": TensorRT " + version_ + " does not open it: " + words(),
                    std::string("build it again on this device; without the plugins nothing opens: ") + BUILD_PLUGINS);
    return engine;
}

TensorRtGraph::TensorRtGraph(TensorRt& library, const std::string& path, const GraphSpec& spec, const Profiles& profiles)
    : library_(library), spec_(spec), path_(path), engine_(library.deserialize(path)), stream_(library.cuda()),
      contexts_(profiles.size()) {
    std::vector<std::string> problems = differences(*engine_, spec);
    if (engine_->getNbOptimizationProfiles() != static_cast<int>(profiles.size()))
        problems.push_back(std::to_string(engine_->getNbOptimizationProfiles()) + " profiles, expected " +
                           std::to_string(profiles.size()));
    std::string text;
    for (const std::string& problem : problems) text += (text.empty() ? "" : "; ") + problem;
    if (!text.empty())
        throw Error(Status::incompatible, path + ": the engine is not as the contract says: " + text,
                    "build the engines again with this version of aurora-export");
}

nvinfer1::IExecutionContext& TensorRtGraph::context(int profile) {
    auto& made = contexts_.at(static_cast<std::size_t>(profile));
    if (made == nullptr) {
        std::unique_ptr<nvinfer1::IExecutionContext> context(engine_->createExecutionContext());
        if (context == nullptr || !context->setOptimizationProfileAsync(profile, stream_.get()))
            throw Error(Status::unexpected,
                        "TensorRT makes no context for profile " + std::to_string(profile) + ": " + library_.words());
        stream_.wait();
        made = std::move(context);
    }
    return *made;
}

void TensorRtGraph::execute(int profile, const std::vector<BoundTensor>& tensors) {
    nvinfer1::IExecutionContext& run = context(profile);
    for (const BoundTensor& tensor : tensors) {
        if (tensor.is_input && !run.setInputShape(tensor.name, tensor.shape))
            throw Error(Status::incompatible,
                        path_ + ": " + tensor.name + ": the shape " + shape_text(tensor.shape) + " is not in profile " +
                            std::to_string(profile) + " of the engine",
                        "build the engines again with this version of aurora-export");
        if (!run.setTensorAddress(tensor.name, reinterpret_cast<void*>(tensor.address)))
            throw Error(Status::unexpected, path_ + ": TensorRT takes no address for " + tensor.name + ": " + library_.words());
    }
    if (!run.enqueueV3(stream_.get())) throw Error(Status::unexpected, path_ + ": TensorRT does not run: " + library_.words());
}

}  // namespace aurora
#endif
