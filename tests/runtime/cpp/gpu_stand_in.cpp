// A library in the place of NVIDIA's driver and of TensorRT: GPU 0 is an Orin, GPU 1 a Thor, whose streams do nothing until
// somebody waits for them. As tests/tensorrt_stand_in does for Python: what is enqueued runs at the last moment that CUDA
// allows, so memory that is filled again too early, or read before its stream was waited for, gives wrong numbers.
// Addresses of the device are no addresses of the host. An engine is a JSON text that names its inputs and outputs.
#include "gpu_stand_in.h"

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <utility>

#include "nvidia_driver.h"

namespace {

using aurora::CuCopy2d;
using aurora::DeviceAddress;
using nlohmann::json;
using Work = std::pair<std::string, std::function<void()>>;

constexpr int OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, UNKNOWN = 999;
constexpr int FIRST_DEVICE = 40;

struct Block {
    std::vector<std::uint8_t> bytes;
    int gpu;
};
struct Queue {
    std::deque<Work> work;
    std::vector<Work> captured;
    bool is_capturing = false;
};
struct Mark {
    Queue* queue = nullptr;
};

std::recursive_mutex mutex;
GpuStandIn shown;
std::map<DeviceAddress, Block> device;
std::map<void*, std::unique_ptr<std::vector<std::uint8_t>>> pinned;
std::map<Queue*, std::unique_ptr<Queue>> queues;
Queue default_queue;
DeviceAddress next_address = DeviceAddress{1} << 44;

using Lock = std::lock_guard<std::recursive_mutex>;

Queue& queue_of(void* stream) { return stream == nullptr ? default_queue : *static_cast<Queue*>(stream); }

void run(Queue& queue, const std::string& until = "") {
    while (!queue.work.empty()) {
        const Work work = queue.work.front();
        queue.work.pop_front();
        work.second();
        if (work.first == until && !until.empty()) return;
    }
}

void run_all() {
    run(default_queue);
    for (const auto& entry : queues) run(*entry.second);
}

void enqueue(void* stream, const std::string& name, std::function<void()> work) {
    shown.calls.push_back(name);
    Queue& queue = queue_of(stream);
    if (queue.is_capturing)
        queue.captured.emplace_back(name, std::move(work));
    else
        queue.work.emplace_back(name, std::move(work));
}

std::map<DeviceAddress, Block>::iterator block_of(DeviceAddress address) {
    auto found = device.upper_bound(address);
    if (found == device.begin()) return device.end();
    --found;
    return address - found->first < found->second.bytes.size() ? found : device.end();
}

// Bytes of the device; ends the test for what was freed, or is no address.
std::uint8_t* bytes_at(DeviceAddress address, std::size_t n_bytes) {
    const auto found = block_of(address);
    if (found == device.end() || address - found->first + n_bytes > found->second.bytes.size()) std::abort();
    return found->second.bytes.data() + (address - found->first);
}

int allocate(DeviceAddress* address, std::size_t n_bytes, int gpu) {
    std::size_t used = n_bytes;
    for (const auto& entry : device) used += entry.second.bytes.size();
    if (used > shown.device_bytes) return OUT_OF_MEMORY;
    *address = next_address;
    next_address += DeviceAddress{1} << 32;
    device[*address] = {std::vector<std::uint8_t>(n_bytes, 0xFF), gpu};
    shown.n_device = device.size();
    return OK;
}

void free_device(DeviceAddress address) {
    run_all();  // CUDA waits before it frees
    if (device.erase(address) != 1) std::abort();
    shown.n_device = device.size();
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) GpuStandIn* gpu_stand_in() {
    shown.waiting = [] {
        const Lock lock(mutex);
        std::vector<std::string> names;
        for (const auto& entry : queues)
            for (const Work& work : entry.second->work) names.push_back(work.first);
        return names;
    };
    shown.allocate = [](std::size_t n_bytes, int gpu) {
        const Lock lock(mutex);
        DeviceAddress address = 0;
        return allocate(&address, n_bytes, gpu), address;
    };
    shown.free = free_device;
    shown.memory = [](std::uint64_t address) { return bytes_at(address, 1); };
    return &shown;
}

int cuInit(unsigned) { return shown.init; }
int cuDriverGetVersion(int* version) { return *version = 13010, OK; }
int cuDeviceGetCount(int* count) { return *count = shown.count, OK; }
int cuDeviceGet(int* gpu, int index) { return *gpu = FIRST_DEVICE + index, OK; }
int cuDeviceGetName(char* name, int size, int gpu) {
    return std::strncpy(name, gpu == FIRST_DEVICE ? "Orin" : "Thor", static_cast<std::size_t>(size)), OK;
}
int cuDeviceGetAttribute(int* value, int attribute, int gpu) {
    *value = gpu == FIRST_DEVICE ? (attribute == 75 ? 8 : 7) : (attribute == 75 ? 11 : 0);
    return attribute == 75 || attribute == 76 ? OK : INVALID;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) { return *bytes = std::size_t{1} << 33, OK; }
int cuGetErrorName(int code, const char** name) { return *name = code == UNKNOWN ? "CUDA_ERROR_UNKNOWN" : nullptr, OK; }
int cuGetErrorString(int code, const char** text) { return *text = code == UNKNOWN ? "unknown error" : nullptr, OK; }
int cuDevicePrimaryCtxRetain(void** context, int gpu) {
    static int contexts[2];
    ++shown.n_retained;
    return *context = &contexts[gpu - FIRST_DEVICE], OK;
}
int cuDevicePrimaryCtxRelease_v2(int) { return --shown.n_retained, OK; }
int cuCtxPushCurrent_v2(void* context) {
    const Lock lock(mutex);
    if (context == nullptr) return INVALID;
    return ++shown.n_pushed, OK;
}
int cuCtxPopCurrent_v2(void**) {
    const Lock lock(mutex);
    return --shown.n_pushed, OK;
}
int cuMemAlloc_v2(DeviceAddress* address, std::size_t n_bytes) {
    const Lock lock(mutex);
    return shown.n_pushed == 0 ? INVALID : allocate(address, n_bytes, FIRST_DEVICE);
}
int cuMemFree_v2(DeviceAddress address) {
    const Lock lock(mutex);
    return free_device(address), OK;
}
int cuMemHostAlloc(void** address, std::size_t n_bytes, unsigned) {
    const Lock lock(mutex);
    auto memory = std::make_unique<std::vector<std::uint8_t>>(n_bytes, 0xFF);
    *address = memory->data();
    pinned[*address] = std::move(memory);
    return shown.n_pinned = pinned.size(), OK;
}
int cuMemFreeHost(void* address) {
    const Lock lock(mutex);
    run_all();
    if (pinned.erase(address) != 1) std::abort();
    return shown.n_pinned = pinned.size(), OK;
}
int cuMemcpyHtoDAsync_v2(DeviceAddress target, const void* source, std::size_t n_bytes, void* stream) {
    const Lock lock(mutex);
    return enqueue(stream, "copy in", [=] { std::memcpy(bytes_at(target, n_bytes), source, n_bytes); }), OK;
}
int cuMemcpyDtoHAsync_v2(void* target, DeviceAddress source, std::size_t n_bytes, void* stream) {
    const Lock lock(mutex);
    return enqueue(stream, "copy out", [=] { std::memcpy(target, bytes_at(source, n_bytes), n_bytes); }), OK;
}
int cuMemcpy2DAsync_v2(const CuCopy2d* given, void* stream) {
    const Lock lock(mutex);
    const CuCopy2d copy = *given;
    if (copy.source_type != 2 || copy.target_type != 1 || copy.source_pitch < copy.width_bytes) return INVALID;
    enqueue(stream, "copy frame", [copy] {
        for (std::size_t row = 0; row < copy.height; ++row)
            std::memcpy(static_cast<std::uint8_t*>(copy.target_host) + row * copy.target_pitch,
                        bytes_at(copy.source_device + row * copy.source_pitch, copy.width_bytes), copy.width_bytes);
    });
    return OK;
}
int cuPointerGetAttribute(void* to, int attribute, DeviceAddress address) {
    const Lock lock(mutex);
    const auto found = block_of(address);
    const auto host = pinned.find(reinterpret_cast<void*>(address));
    if (found == device.end() && host == pinned.end()) return INVALID;
    const unsigned type = found == device.end() ? 1 : 2, no = 0;
    if (attribute == 2) return std::memcpy(to, &type, sizeof type), OK;
    if (attribute == 8) return std::memcpy(to, &no, sizeof no), OK;
    if (found == device.end()) return INVALID;
    const std::size_t size = found->second.bytes.size();
    if (attribute == 9) return std::memcpy(to, &found->second.gpu, sizeof(int)), OK;
    if (attribute == 11) return std::memcpy(to, &found->first, sizeof found->first), OK;
    if (attribute == 12) return std::memcpy(to, &size, sizeof size), OK;
    return INVALID;
}
int cuStreamCreate(void** stream, unsigned) {
    const Lock lock(mutex);
    auto queue = std::make_unique<Queue>();
    *stream = queue.get();
    queues[queue.get()] = std::move(queue);
    return shown.n_streams = queues.size(), OK;
}
int cuStreamDestroy_v2(void* stream) {
    const Lock lock(mutex);
    run(queue_of(stream));
    if (queues.erase(static_cast<Queue*>(stream)) != 1) std::abort();
    return shown.n_streams = queues.size(), OK;
}
int cuStreamSynchronize(void* stream) {
    const Lock lock(mutex);
    shown.calls.emplace_back("wait");
    return run(queue_of(stream)), OK;
}
int cuStreamBeginCapture_v2(void* stream, int mode) {
    const Lock lock(mutex);
    queue_of(stream).is_capturing = true;
    return mode == 1 ? OK : INVALID;
}
int cuStreamEndCapture(void* stream, void** graph) {
    const Lock lock(mutex);
    Queue& queue = queue_of(stream);
    queue.is_capturing = false;
    const std::vector<Work> captured = std::exchange(queue.captured, {});
    if (!shown.can_capture) return *graph = nullptr, UNKNOWN;
    ++shown.n_graphs;
    return *graph = new std::vector<Work>(captured), OK;
}
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    const Lock lock(mutex);
    ++shown.n_graphs;
    return *executable = new std::vector<Work>(*static_cast<std::vector<Work>*>(graph)), OK;
}
int cuGraphDestroy(void* graph) {
    const Lock lock(mutex);
    delete static_cast<std::vector<Work>*>(graph);
    return --shown.n_graphs, OK;
}
int cuGraphExecDestroy(void* graph) { return cuGraphDestroy(graph); }
int cuGraphLaunch(void* graph, void* stream) {
    const Lock lock(mutex);
    const std::vector<Work> work = *static_cast<std::vector<Work>*>(graph);
    enqueue(stream, "launch", [work] { for (const Work& step : work) step.second(); });
    return OK;
}
int cuEventCreate(void** event, unsigned) {
    const Lock lock(mutex);
    return *event = new Mark, ++shown.n_events, OK;
}
int cuEventDestroy_v2(void* event) {
    const Lock lock(mutex);
    return delete static_cast<Mark*>(event), --shown.n_events, OK;
}
std::string name_of(void* event) { return "event " + std::to_string(reinterpret_cast<std::uintptr_t>(event)); }
int cuEventRecord(void* event, void* stream) {
    const Lock lock(mutex);
    Queue& queue = queue_of(stream);
    const std::string name = name_of(event);
    // An older record counts no more.
    queue.work.erase(std::remove_if(queue.work.begin(), queue.work.end(), [&](const Work& w) { return w.first == name; }), queue.work.end());
    queue.work.emplace_back(name, [] {});
    return static_cast<Mark*>(event)->queue = &queue, OK;
}
int cuEventSynchronize(void* event) {
    const Lock lock(mutex);
    Queue* queue = static_cast<Mark*>(event)->queue;
    const std::string name = name_of(event);
    if (queue != nullptr && std::any_of(queue->work.begin(), queue->work.end(), [&](const Work& w) { return w.first == name; }))
        run(*queue, name);
    return OK;
}

}  // extern "C"

// --- TensorRT ---------------------------------------------------------------------------------------------------------

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
