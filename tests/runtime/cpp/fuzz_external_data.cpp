// Any bytes as an ONNX file: the places of its external data, or one error of the known kind.
#include <cstdint>
#include <stdexcept>
#include <string_view>

#include "external_data.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        for (const aurora::ExternalData& found : aurora::find_external_data({reinterpret_cast<const char*>(data), size}))
            if (found.location.size() > size) __builtin_trap();
    } catch (const std::runtime_error&) {
    }
    return 0;
}
