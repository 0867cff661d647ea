#include "nvidia_driver.h"

#include <dlfcn.h>

#include <cstring>

#include "error.h"

namespace aurora {
namespace {

constexpr const char* INSTALL_DRIVER =
    "install NVIDIA's driver; `nvidia-smi` (on a Jetson: `tegrastats`) must work for this user";

constexpr int COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76;  // of CUdevice_attribute
constexpr CuResult NO_DEVICE = 100;                                          // CUDA_ERROR_NO_DEVICE

// Asks dlsym for a function by its name in `Driver`.
struct Symbols {
    void* library;
    const std::string& path;

    template <typename Function>
    void find(const char* name, Function*& function) const {
        void* symbol = dlsym(library, name);
        if (symbol == nullptr) throw Error(Status::dependency, path + " has no " + name, "update NVIDIA's driver");
        static_assert(sizeof function == sizeof symbol, "pointers to functions fit in void*");
        std::memcpy(&function, &symbol, sizeof function);
    }
};

Gpu described(const Driver& driver, int index, int version) {
    Gpu gpu;
    gpu.index = index;
    char name[256] = {};
    int major = 0, minor = 0;
    CuResult code = driver.cuDeviceGet(&gpu.device, index);
    if (code == 0) code = driver.cuDeviceGetName(name, static_cast<int>(sizeof name), gpu.device);
    if (code == 0) code = driver.cuDeviceGetAttribute(&major, COMPUTE_CAPABILITY_MAJOR, gpu.device);
    if (code == 0) code = driver.cuDeviceGetAttribute(&minor, COMPUTE_CAPABILITY_MINOR, gpu.device);
    if (code == 0) code = driver.cuDeviceTotalMem_v2(&gpu.memory_bytes, gpu.device);
    if (code != 0)
        throw Error(Status::dependency, "GPU " + std::to_string(index) + " does not answer: " + driver.error_name(code),
                    INSTALL_DRIVER);
    name[sizeof name - 1] = '\0';
    gpu.name = name;
    gpu.compute_capability = std::to_string(major) + "." + std::to_string(minor);
    gpu.driver = std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
    return gpu;
}

}  // namespace

Driver::Driver(const std::string& path) {
    // It is never unloaded: TensorRT and ONNX Runtime use it too, and so may the program.
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) {
        const char* reason = dlerror();
        throw Error(Status::dependency, std::string("no NVIDIA driver: ") + (reason == nullptr ? path : reason), INSTALL_DRIVER);
    }
    const Symbols symbols{library, path};
    dlclose(library);  // it stays, see above; so do the functions
#define AURORA_FIND(name) symbols.find(#name, name)
    AURORA_FIND(cuInit), AURORA_FIND(cuDriverGetVersion), AURORA_FIND(cuDeviceGetCount), AURORA_FIND(cuDeviceGet);
    AURORA_FIND(cuDeviceGetName), AURORA_FIND(cuDeviceGetAttribute), AURORA_FIND(cuDeviceTotalMem_v2);
    AURORA_FIND(cuGetErrorName), AURORA_FIND(cuGetErrorString);
    AURORA_FIND(cuDevicePrimaryCtxRetain), AURORA_FIND(cuDevicePrimaryCtxRelease_v2);
    AURORA_FIND(cuCtxPushCurrent_v2), AURORA_FIND(cuCtxPopCurrent_v2);
    AURORA_FIND(cuMemAlloc_v2), AURORA_FIND(cuMemFree_v2), AURORA_FIND(cuMemHostAlloc), AURORA_FIND(cuMemFreeHost);
    AURORA_FIND(cuMemcpyHtoDAsync_v2), AURORA_FIND(cuMemcpyDtoHAsync_v2), AURORA_FIND(cuMemcpy2DAsync_v2);
    AURORA_FIND(cuPointerGetAttribute);
    AURORA_FIND(cuStreamCreate), AURORA_FIND(cuStreamDestroy_v2), AURORA_FIND(cuStreamSynchronize);
    AURORA_FIND(cuStreamBeginCapture_v2), AURORA_FIND(cuStreamEndCapture);
    AURORA_FIND(cuGraphInstantiateWithFlags), AURORA_FIND(cuGraphDestroy), AURORA_FIND(cuGraphExecDestroy);
    AURORA_FIND(cuGraphLaunch);
    AURORA_FIND(cuEventCreate), AURORA_FIND(cuEventDestroy_v2), AURORA_FIND(cuEventRecord), AURORA_FIND(cuEventSynchronize);
#undef AURORA_FIND
}

std::string Driver::error_name(CuResult code) const {
    const char* name = nullptr;
    cuGetErrorName(code, &name);
    return name != nullptr ? name : "error " + std::to_string(code);
}

std::vector<Gpu> gpus(const Driver& driver) {
    int version = 0, count = 0;
    CuResult code = driver.cuInit(0);
    if (code == 0) code = driver.cuDriverGetVersion(&version);
    if (code == 0) code = driver.cuDeviceGetCount(&count);
    if (code == NO_DEVICE || (code == 0 && count == 0))
        throw Error(Status::dependency, "the NVIDIA driver sees no GPU",
                    "look at CUDA_VISIBLE_DEVICES, and at what the container may use");
    if (code != 0)
        throw Error(Status::dependency, "the NVIDIA driver does not start: " + driver.error_name(code), INSTALL_DRIVER);
    std::vector<Gpu> found;
    for (int index = 0; index < count; ++index) found.push_back(described(driver, index, version));
    return found;
}

Gpu gpu(const Driver& driver, int index) {
    const std::vector<Gpu> found = gpus(driver);
    if (index >= 0 && static_cast<std::size_t>(index) < found.size()) return found[static_cast<std::size_t>(index)];
    std::string names;
    for (const Gpu& gpu : found) names += (names.empty() ? "" : ", ") + std::to_string(gpu.index) + " (" + gpu.name + ")";
    throw Error(Status::usage, "there is no GPU " + std::to_string(index), "there are: " + names);
}

}  // namespace aurora
