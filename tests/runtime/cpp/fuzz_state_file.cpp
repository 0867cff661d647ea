// Any bytes as a state file: a state of the sizes that were asked for, which is written and read again, or an Error.
#include <cstdint>
#include <string_view>

#include "error.h"
#include "state_file.h"

namespace {

aurora::AuroraConfig small_config() {
    aurora::AuroraConfig config{};
    config.vision.image_size = 16, config.vision.patch_size = 4, config.vision.n_layers = config.vision.layers_used = 1;
    config.merge.kept_ratio = 1, config.merge.schedule = "constant";
    config.language.n_layers = 2, config.language.width = 8, config.language.head_size = 4;
    return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const aurora::AuroraConfig config = small_config();
    static const std::string model = "abababababababababababababababababababababababababababababababab";
    try {
        const aurora::State state = aurora::state_from_bytes({reinterpret_cast<const char*>(data), size}, config, model);
        const std::string bytes = aurora::bytes_from_state(state, config);
        if (aurora::state_from_bytes(bytes, config, model).digest() != state.digest()) __builtin_trap();
    } catch (const aurora::Error&) {
    }
    return 0;
}
