// Any bytes as the start of an .npy file: a header, or one error of the known kind.
#include <cstdint>
#include <stdexcept>
#include <string_view>

#include "embeddings.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const aurora::NpyHeader header = aurora::read_npy_header({reinterpret_cast<const char*>(data), size});
        if (header.data_begin > size || header.n_rows < 0 || header.n_columns < 0) __builtin_trap();
    } catch (const std::runtime_error&) {
    }
    return 0;
}
