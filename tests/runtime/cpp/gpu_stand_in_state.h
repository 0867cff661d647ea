// What the parts of the stand-in share: memory of its GPU, and streams that do nothing until somebody waits for them.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "gpu_stand_in.h"
#include "nvidia_driver.h"

namespace stand_in {

using aurora::DeviceAddress;
using Work = std::pair<std::string, std::function<void()>>;
using Lock = std::lock_guard<std::recursive_mutex>;

constexpr int OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, UNKNOWN = 999;

struct Block {
    std::vector<std::uint8_t> bytes;
    int gpu;
};
struct Queue {
    std::deque<Work> work;
    std::vector<Work> captured;
    bool is_capturing = false;
};

extern std::recursive_mutex mutex;  // of everything here
extern GpuStandIn shown;
extern std::map<DeviceAddress, Block> device;
extern std::map<void*, std::unique_ptr<std::vector<std::uint8_t>>> pinned;
extern std::map<Queue*, std::unique_ptr<Queue>> queues;

Queue& queue_of(void* stream);  // null: the default stream
void enqueue(void* stream, const std::string& name, std::function<void()> work);

// Do what waits in a queue, up to and with the work of a name; all of it without one.
void run(Queue& queue, const std::string& until = "");
void run_all();

// Bytes of the device; ends the test for what was freed, or is no address.
std::uint8_t* bytes_at(DeviceAddress address, std::size_t n_bytes);
std::map<DeviceAddress, Block>::iterator block_of(DeviceAddress address);
int allocate(DeviceAddress* address, std::size_t n_bytes, int gpu);
void free_device(DeviceAddress address);

}  // namespace stand_in
