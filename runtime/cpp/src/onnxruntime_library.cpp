#include "onnxruntime_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "error.h"

namespace aurora {
namespace {

constexpr const char* INSTALL_HINT =
    "install ONNX Runtime 1.18 or newer and name its libonnxruntime.so in the option onnxruntime_library or in "
    "AURORA_ONNXRUNTIME; the PyPI package onnxruntime holds one in onnxruntime/capi";

// Others are about its own code.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::string lower_case(std::string text) {
    for (char& c : text)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return text;
}

}  // namespace

OnnxRuntime::OnnxRuntime(const std::string& path) {
    std::vector<std::string> candidates{path};
    const char* named = std::getenv("AURORA_ONNXRUNTIME");
    if (path.empty()) {
        candidates.clear();
        if (named != nullptr && *named != '\0')
            candidates.emplace_back(named);
        else
            candidates = {"libonnxruntime.so.1", "libonnxruntime.so"};
    }
    void* library = nullptr;
    std::string reason;
    for (const std::string& candidate : candidates) {
        library = dlopen(candidate.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
        if (library != nullptr) break;
        const char* error = dlerror();
        if (reason.empty()) reason = error == nullptr ? candidate : error;
    }
    if (library == nullptr) throw Error(Status::dependency, "ONNX Runtime cannot be loaded: " + reason, INSTALL_HINT);
    void* symbol = dlsym(library, "OrtGetApiBase");
    const std::string name = candidates.size() == 1 ? candidates[0] : "libonnxruntime";
    dlclose(library);  // it stays; so does the symbol
    if (symbol == nullptr) throw Error(Status::dependency, name + " is not ONNX Runtime", INSTALL_HINT);
    const ort::ApiBase* (*get_base)();
    static_assert(sizeof get_base == sizeof symbol, "pointers to functions fit in void*");
    std::memcpy(&get_base, &symbol, sizeof get_base);
    base_ = get_base();
    version_ = base_->get_version();
    api_ = base_->get_api(ort::MIN_VERSION);
    if (api_ == nullptr)
        throw Error(Status::dependency, name + " is ONNX Runtime " + version_ + "; 1.18 or newer is needed", INSTALL_HINT);
    env_ = Owned<OrtEnv, ort::ReleaseEnv>(api_);
    check(ort::CreateEnv::call(api_, ort::LOG_ERROR, "aurora", env_.out()), "environment");
    // Microsoft's binaries from 1.29 on send what a session does to Microsoft. Of what making the environment says, only
    // the variable ORT_DISABLE_TELEMETRY keeps them, which is the program's to set, not a library's.
    check(ort::DisableTelemetryEvents::call(api_, env_.get()), "telemetry");
}

void OnnxRuntime::check(OrtStatus* status, const std::string& what) const {
    if (status == nullptr) return;
    const int code = ort::GetErrorCode::call(api_, status);
    const std::string text = ort::GetErrorMessage::call(api_, status);
    ort::ReleaseStatus::call(api_, status);
    const std::string lower = lower_case(text);
    if (lower.find("bad_alloc") != std::string::npos || lower.find("failed to allocate memory") != std::string::npos)
        throw Error(Status::resources, "ONNX Runtime ran out of memory: " + first_line(text),
                    "close other programs, or use a smaller model");
    if (code == ort::NOT_IMPLEMENTED)
        throw Error(Status::incompatible,
                    what + ": ONNX Runtime " + version_ + " lacks an operator of this graph: " + first_line(text),
                    "install a newer ONNX Runtime");
    throw Error(Status::unexpected, what + ": " + first_line(text));
}

}  // namespace aurora
