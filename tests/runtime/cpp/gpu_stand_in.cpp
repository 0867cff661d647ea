// A library in the place of NVIDIA's driver and of TensorRT: GPU 0 is an Orin, GPU 1 a Thor, whose streams do nothing until
// somebody waits for them. As tests/tensorrt_stand_in does for Python: what is enqueued runs at the last moment that CUDA
// allows, so memory that is filled again too early, or read before its stream was waited for, gives wrong numbers.
// Addresses of the device are no addresses of the host. Here are its memory and streams, and what tests see of them;
// gpu_stand_in_driver.cpp is the driver's interface to them, gpu_stand_in_tensorrt.cpp TensorRT's.
#include <cstdlib>

#include "gpu_stand_in_state.h"

namespace stand_in {

std::recursive_mutex mutex;
GpuStandIn shown;
std::map<DeviceAddress, Block> device;
std::map<void*, std::unique_ptr<std::vector<std::uint8_t>>> pinned;
std::map<Queue*, std::unique_ptr<Queue>> queues;

namespace {
Queue default_queue;
DeviceAddress next_address = DeviceAddress{1} << 44;
}  // namespace

Queue& queue_of(void* stream) { return stream == nullptr ? default_queue : *static_cast<Queue*>(stream); }

void run(Queue& queue, const std::string& until) {
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

}  // namespace stand_in

extern "C" __attribute__((visibility("default"))) GpuStandIn* gpu_stand_in() {
    using namespace stand_in;
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
