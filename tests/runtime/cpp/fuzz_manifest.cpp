// Any bytes as manifest.json: a manifest, or an Error; a manifest has a fingerprint.
#include <cstdint>
#include <string_view>

#include "error.h"
#include "manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const aurora::Manifest manifest = aurora::manifest_from_text({reinterpret_cast<const char*>(data), size}, "M");
        if (manifest.fingerprint().size() != 64) __builtin_trap();
        for (const auto& entry : manifest.digests)
            if (entry.first.empty() || entry.first.front() == '/' || entry.first.find("..") == 0) __builtin_trap();
        aurora::check_contract("B", manifest);
    } catch (const aurora::Error&) {
    }
    return 0;
}
