#include "cuda_libraries.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>

namespace aurora {

bool are_cuda_libraries_off() {
    const char* chosen = std::getenv(CUDA_FOLDER);
    return chosen != nullptr && std::string(chosen) == "off";
}

std::string expected_cuda_library(const char* name) {
    const char* chosen = std::getenv(CUDA_FOLDER);
    std::string folder = chosen == nullptr ? "" : chosen;
    Dl_info here{};
    if (folder.empty() && dladdr(CUDA_FOLDER, &here) != 0 && here.dli_fname != nullptr) {
        folder = here.dli_fname;
        const std::size_t slash = folder.rfind('/');
        folder = slash == folder.npos ? "." : folder.substr(0, slash);
    }
    return folder + "/" + name;
}

std::string find_cuda_library(const char* name) {
    if (are_cuda_libraries_off()) return {};
    std::string path = expected_cuda_library(name);
    struct stat status {};
    return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) ? path : std::string();
}

}  // namespace aurora
