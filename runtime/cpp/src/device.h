// Where a model runs, as a user names it: cpu, cuda, cuda:1, tensorrt, tensorrt:1. Mirrors runtime/device.py.
#pragma once

#include <string>
#include <string_view>

namespace aurora {

// ONNX Runtime on the CPU; ONNX Runtime on an NVIDIA GPU; TensorRT engines of the bundle on one.
enum class DeviceBackend { cpu, cuda, tensorrt };

// A backend, and the number of the GPU as NVIDIA's driver counts them.
struct Device {
    DeviceBackend backend = DeviceBackend::cpu;
    int index = 0;
};

// Throws Error(usage) for what is no device.
Device parse_device(std::string_view text);

}  // namespace aurora
