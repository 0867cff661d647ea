// ONNX Runtime, loaded when a model is opened, and owners of its objects.
#pragma once

#include <string>
#include <utility>

#include "ort_session_api.h"

namespace aurora {

using OrtTable = const void* const*;

// Owns one object of ONNX Runtime.
template <typename T, typename Release>
class Owned {
public:
    explicit Owned(OrtTable api) : api_(api) {}
    Owned(Owned&& other) noexcept : api_(other.api_), pointer_(std::exchange(other.pointer_, nullptr)) {}
    Owned& operator=(Owned&& other) noexcept {
        std::swap(api_, other.api_);
        std::swap(pointer_, other.pointer_);
        return *this;
    }
    ~Owned() {
        if (pointer_ != nullptr) Release::call(api_, pointer_);
    }
    T* get() const { return pointer_; }
    T** out() { return &pointer_; }

private:
    OrtTable api_;
    T* pointer_ = nullptr;
};
// The library as it was found, and its environment. It is never unloaded: its threads and exit handlers may outlive every
// session.
class OnnxRuntime {
public:
    // path: of libonnxruntime; empty: AURORA_ONNXRUNTIME, else the loader finds it. Throws Error(dependency).
    explicit OnnxRuntime(const std::string& path);

    // Throws what a status says, and releases it; `what` begins the message.
    void check(OrtStatus* status, const std::string& what) const;

    const ort::ApiBase* base() const { return base_; }
    OrtTable api() const { return api_; }
    const std::string& version() const { return version_; }
    const OrtEnv* env() const { return env_.get(); }

private:
    const ort::ApiBase* base_ = nullptr;
    OrtTable api_ = nullptr;
    std::string version_;
    Owned<OrtEnv, ort::ReleaseEnv> env_{nullptr};
};

}  // namespace aurora
