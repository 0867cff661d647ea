// The part of TensorRT that libaurora uses. An engine is a JSON text that names its inputs and outputs.
#include <NvInferRuntime.h>

#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>

#include "gpu_stand_in_state.h"

using namespace stand_in;
using nlohmann::json;

namespace {

using namespace nvinfer1;

ILogger* logger = nullptr;

// Counts the objects that are there.
template <typename Interface>
struct Counted : Interface {
    Counted() { ++shown.n_tensorrt; }
    ~Counted() noexcept override { --shown.n_tensorrt; }
};

const json& tensor_of(const json& described, const std::string& name) {
    for (const json& tensor : described["tensors"])
        if (tensor["name"] == name) return tensor;
    std::abort();
}

class Context : public Counted<IExecutionContext> {
public:
    explicit Context(const json& described) : described_(described) {}
    bool setOptimizationProfileAsync(int32_t profile, cudaStream_t) noexcept override {
        profile_ = profile;
        return static_cast<std::size_t>(profile) < described_["profiles"].size();
    }
    bool setInputShape(const char* name, const Dims& shape) noexcept override {
        const Lock lock(mutex);
        const json& expected = tensor_of(described_, name)["shape"];
        if (profile_ < 0 || static_cast<std::size_t>(shape.nbDims) != expected.size()) return false;
        const bool has_tokens = std::strcmp(name, "embeddings") == 0;
        const json& tokens = described_["profiles"][static_cast<std::size_t>(profile_)]["T"];
        for (int i = 0; i < shape.nbDims; ++i) {
            const std::int64_t fixed = expected[static_cast<std::size_t>(i)];
            if (has_tokens && i == 1) {
                if (shape.d[i] < tokens[0] || shape.d[i] > tokens[1]) return false;
                n_tokens_ = static_cast<std::size_t>(shape.d[i]);
            } else if (shape.d[i] != (fixed < 0 ? 1 : fixed)) {
                return false;
            }
        }
        return true;
    }
    bool setTensorAddress(const char* name, void* address) noexcept override {
        addresses_[name] = reinterpret_cast<DeviceAddress>(address);
        return true;
    }
    // Shapes and addresses are read now, memory when the stream comes to it.
    bool enqueueV3(cudaStream_t stream) noexcept override {
        const Lock lock(mutex);
        if (!shown.can_run || addresses_.size() != described_["tensors"].size()) {
            logger->log(ILogger::Severity::kERROR, "it cannot run");
            return false;
        }
        const std::string graph = described_["graph"];
        enqueue(stream, "execute " + graph + " " + std::to_string(profile_),
                [graph, addresses = addresses_, n_tokens = n_tokens_] {
                    std::map<std::string, void*> arrays;
                    for (const auto& [name, address] : addresses) arrays[name] = bytes_at(address, 1);
                    shown.run(graph, arrays, n_tokens);
                });
        return true;
    }

private:
    const json& described_;
    int profile_ = -1;
    std::size_t n_tokens_ = 0;
    std::map<std::string, DeviceAddress> addresses_;
};

class StandInEngine : public Counted<ICudaEngine> {
public:
    explicit StandInEngine(json described) : described_(std::move(described)) {
        for (const json& tensor : described_["tensors"]) names_.push_back(tensor["name"]);
    }
    int32_t getNbIOTensors() const noexcept override { return static_cast<int32_t>(names_.size()); }
    const char* getIOTensorName(int32_t i) const noexcept override { return names_[static_cast<std::size_t>(i)].c_str(); }
    TensorIOMode getTensorIOMode(const char* name) const noexcept override {
        return tensor_of(described_, name)["input"].get<bool>() ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
    }
    DataType getTensorDataType(const char* name) const noexcept override {
        const std::string type = tensor_of(described_, name)["dtype"];
        return type == "float32" ? DataType::kFLOAT : type == "uint8" ? DataType::kUINT8 : type == "int32" ? DataType::kINT32 : DataType::kHALF;
    }
    Dims getTensorShape(const char* name) const noexcept override {
        Dims shape{};
        for (const json& size : tensor_of(described_, name)["shape"]) shape.d[shape.nbDims++] = size;
        return shape;
    }
    int32_t getNbOptimizationProfiles() const noexcept override { return static_cast<int32_t>(described_["profiles"].size()); }
    IExecutionContext* createExecutionContext() noexcept override { return new Context(described_); }

private:
    json described_;
    std::vector<std::string> names_;
};

struct StandInRuntime : Counted<IRuntime> {
    ICudaEngine* deserializeCudaEngine(const void* data, size_t size) noexcept override {
        json described = json::parse(std::string(static_cast<const char*>(data), size), nullptr, false);
        if (described.is_object()) return new StandInEngine(std::move(described));
        logger->log(ILogger::Severity::kERROR, "the magic tag does not match");
        logger->log(ILogger::Severity::kINFO, "no error");
        return nullptr;
    }
};

struct StandInRegistry : IPluginRegistry {
    void* loadLibrary(const AsciiChar* path) noexcept override {
        if (std::strstr(path, "unfit") != nullptr) return nullptr;
        return shown.plugins = path, &shown;
    }
    IPluginCreatorInterface* getCreator(const AsciiChar*, const AsciiChar*, const AsciiChar*) noexcept override { return nullptr; }
};

}  // namespace

extern "C" {
int32_t getInferLibMajorVersion() { return shown.version[0]; }
int32_t getInferLibMinorVersion() { return shown.version[1]; }
int32_t getInferLibPatchVersion() { return shown.version[2]; }
int32_t getInferLibBuildVersion() { return shown.version[3]; }
IPluginRegistry* getPluginRegistry() {
    static StandInRegistry registry;
    return &registry;
}
// Without a driver that was asked before, the real one crashes.
void* createInferRuntime_INTERNAL(void* given, int32_t) {
    if (shown.n_retained == 0 || shown.n_pushed == 0) std::abort();
    logger = static_cast<ILogger*>(given);
    return static_cast<IRuntime*>(new StandInRuntime);
}
}
