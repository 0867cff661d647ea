// The functions of libcuda.so.1 that libaurora uses.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "gpu_stand_in_state.h"

using namespace stand_in;
using aurora::CuCopy2d;

namespace {

constexpr int FIRST_DEVICE = 40;

struct Mark {
    Queue* queue = nullptr;
};

std::string name_of(void* event) { return "event " + std::to_string(reinterpret_cast<std::uintptr_t>(event)); }

}  // namespace

extern "C" {

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
