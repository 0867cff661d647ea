#include "device.h"

#include <algorithm>
#include <utility>

#include "error.h"
#include "text.h"

namespace aurora {

Device parse_device(std::string_view text) {
    for (const auto& [name, backend] : {std::pair<std::string_view, DeviceBackend>{"cpu", DeviceBackend::cpu},
                                        {"cuda", DeviceBackend::cuda},
                                        {"tensorrt", DeviceBackend::tensorrt}}) {
        if (text == name) return {backend, 0};
        if (backend == DeviceBackend::cpu || text.size() <= name.size() + 1) continue;
        if (text.substr(0, name.size()) != name || text[name.size()] != ':') continue;
        const std::string_view digits = text.substr(name.size() + 1);
        const bool is_number = std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
        if (is_number && digits.size() <= 3) return {backend, std::stoi(std::string(digits))};
    }
    throw Error(Status::usage, "unknown device " + repr(first_characters(text, 40)),
                "devices: cpu, cuda, tensorrt; cuda:1 is the second GPU");
}

}  // namespace aurora
