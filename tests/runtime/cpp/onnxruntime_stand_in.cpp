#include "onnxruntime_stand_in.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "ort_session_api.h"

struct OrtCUDAProviderOptionsV2 : std::map<std::string, std::string> {};

namespace {

constexpr std::size_t N_ENTRIES = 275;  // up to the last that libaurora and its operators use

std::mutex mutex;  // graphs are opened side by side
OnnxRuntimeStandIn shown;

const ort::ApiBase* real_base() {
    static const ort::ApiBase* const base = [] {
        void* library = dlopen(std::getenv("AURORA_ONNXRUNTIME"), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        void* symbol = library == nullptr ? nullptr : dlsym(library, "OrtGetApiBase");
        if (symbol == nullptr) std::abort();
        dlclose(library);
        const ort::ApiBase* (*get_base)();
        std::memcpy(&get_base, &symbol, sizeof get_base);
        return get_base();
    }();
    return base;
}

OrtStatus* create_options(OrtCUDAProviderOptionsV2** options) {
    const std::lock_guard<std::mutex> lock(mutex);
    ++shown.n_provider_options;
    *options = new OrtCUDAProviderOptionsV2;
    return nullptr;
}
OrtStatus* update_options(OrtCUDAProviderOptionsV2* options, const char* const* keys, const char* const* values, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) (*options)[keys[i]] = values[i];
    return nullptr;
}
OrtStatus* append_provider(OrtSessionOptions*, const OrtCUDAProviderOptionsV2* options) {
    const std::lock_guard<std::mutex> lock(mutex);
    shown.appended.push_back(*options);
    return nullptr;
}
void release_options(OrtCUDAProviderOptionsV2* options) {
    const std::lock_guard<std::mutex> lock(mutex);
    --shown.n_provider_options;
    delete options;
}
OrtStatus* add_domain(OrtSessionOptions* options, OrtCustomOpDomain* domain) {
    const auto real = real_base()->get_api(ort::MIN_VERSION);
    const std::lock_guard<std::mutex> lock(mutex);
    if (!shown.takes_domains) return ort::CreateStatus::call(real, ort::FAIL, "no more domains\nat session.cc:1");
    ++shown.n_domains;
    return ort::AddCustomOpDomain::call(real, options, domain);
}

template <typename Function>
const void* entry(Function* function) {
    const void* address;
    std::memcpy(&address, &function, sizeof address);
    return address;
}

const void* const* api(std::uint32_t version) {
    static const std::array<const void*, N_ENTRIES> table = [] {
        std::array<const void*, N_ENTRIES> made{};
        std::memcpy(made.data(), real_base()->get_api(ort::MIN_VERSION), sizeof made);
        made[28] = entry(add_domain);  // the places as in ort_api.h and ort_session_api.h
        made[204] = entry(append_provider), made[205] = entry(create_options);
        made[206] = entry(update_options), made[208] = entry(release_options);
        return made;
    }();
    return version == ort::MIN_VERSION ? table.data() : nullptr;
}

}  // namespace

extern "C" {

const ort::ApiBase* OrtGetApiBase() {
    static const ort::ApiBase base{api, real_base()->get_version};
    return &base;
}

OnnxRuntimeStandIn* onnxruntime_stand_in() { return &shown; }
}
