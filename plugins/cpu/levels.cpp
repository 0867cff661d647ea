#include "levels.h"

#include <cstdlib>
#include <cstring>

namespace aurora {

#if defined(__x86_64__)
namespace avx512 { extern const Kernels KERNELS; }
namespace avx_vnni { extern const Kernels KERNELS; }
namespace avx2 { extern const Kernels KERNELS; }
#elif defined(__aarch64__)
namespace neon { extern const Kernels KERNELS; }
#endif
namespace portable { extern const Kernels KERNELS; }

const Kernels* const* all_levels(std::size_t* n) {
    static const Kernels* const levels[] = {
#if defined(__x86_64__)
        &avx512::KERNELS, &avx_vnni::KERNELS, &avx2::KERNELS,
#elif defined(__aarch64__)
        &neon::KERNELS,
#endif
        &portable::KERNELS,
    };
    *n = sizeof levels / sizeof *levels;
    return levels;
}

const Kernels* choose_level(const char** error) {
    std::size_t n;
    const Kernels* const* levels = all_levels(&n);
    const char* wanted = std::getenv("AURORA_CPU_LEVEL");
    const bool is_free = wanted == nullptr || *wanted == '\0';
    for (std::size_t i = 0; i < n; ++i) {
        if (!is_free && std::strcmp(levels[i]->name, wanted) != 0) continue;
        if (levels[i]->is_supported()) return levels[i];
        if (!is_free) {
            *error = "AURORA_CPU_LEVEL names an instruction set that this machine does not have";
            return nullptr;
        }
    }
    *error = "AURORA_CPU_LEVEL names no level of this library; `aurora-export doctor` lists them";
    return nullptr;
}

}  // namespace aurora
