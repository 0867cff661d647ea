// What an operator sees of ONNX Runtime: inputs, outputs and threads of one call, with every answer checked.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "ort_api.h"
#include "parallel.h"

namespace aurora {

using Api = const void* const*;
using Shape = std::vector<std::int64_t>;

// Thrown with ONNX Runtime's own status, or with a text of ours.
struct OrtFailure {
    OrtStatus* status;
};

inline void check(OrtStatus* status) {
    if (status != nullptr) throw OrtFailure{status};
}

[[noreturn]] inline void refuse(Api api, const std::string& message) {
    throw OrtFailure{ort::CreateStatus::call(api, ort::INVALID_ARGUMENT, message.c_str())};
}

inline std::string text_of(const Shape& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + ")";
}

inline std::size_t element_count(const Shape& shape) {
    std::size_t n = 1;
    for (std::int64_t size : shape) n *= static_cast<std::size_t>(size);
    return n;
}

class Context {
public:
    Context(Api api, OrtKernelContext* context) : api_(api), context_(context) {}

    // The memory of an input. Its element type is the one that the operator was registered with.
    template <typename T>
    const T* data(std::size_t index) const {
        void* data;
        check(ort::GetTensorMutableData::call(api_, const_cast<OrtValue*>(input(index)), &data));
        return static_cast<const T*>(data);
    }

    Shape shape(std::size_t index) const {
        OrtTensorTypeAndShapeInfo* info;
        check(ort::GetTensorTypeAndShape::call(api_, input(index), &info));
        std::size_t n = 0;
        OrtStatus* status = ort::GetDimensionsCount::call(api_, info, &n);
        Shape shape(status == nullptr ? n : 0);
        if (status == nullptr) status = ort::GetDimensions::call(api_, info, shape.data(), n);
        ort::ReleaseTensorTypeAndShapeInfo::call(api_, info);
        check(status);
        return shape;
    }

    // An input of which the shape is known: kernels read as far as it says.
    template <typename T>
    const T* data(std::size_t index, const char* name, const Shape& expected) const {
        const Shape found = shape(index);
        if (found != expected)
            refuse(api_, std::string(name) + " has shape " + text_of(found) + ", expected " + text_of(expected));
        return data<T>(index);
    }

    template <typename T = float>
    T* output(std::size_t index, const Shape& shape) const {
        OrtValue* value;
        check(ort::KernelContextGetOutput::call(api_, context_, index, shape.data(), shape.size(), &value));
        void* data;
        check(ort::GetTensorMutableData::call(api_, value, &data));
        return static_cast<T*>(data);
    }

    // The threads of the session; each index is handed out for itself.
    Parallel parallel() const {
        return {[](void* self, std::size_t n, ort::Work work, void* context) {
                    const Context& me = *static_cast<const Context*>(self);
                    if (n == 1)
                        work(context, 0);
                    else
                        check(ort::KernelContextParallelFor::call(me.api_, me.context_, work, n, n, context));
                },
                const_cast<Context*>(this)};
    }

    // The stream that a kernel of a GPU enqueues its work on; null on a CPU.
    void* stream() const {
        void* stream = nullptr;
        check(ort::KernelContextGetGpuComputeStream::call(api_, context_, &stream));
        return stream;
    }

    Api api() const { return api_; }

private:
    const OrtValue* input(std::size_t index) const {
        const OrtValue* value = nullptr;
        check(ort::KernelContextGetInput::call(api_, context_, index, &value));
        if (value == nullptr) refuse(api_, "input " + std::to_string(index) + " is missing");
        return value;
    }

    Api api_;
    OrtKernelContext* context_;
};

// What is read of a node's attributes when its kernel is made.
class Attributes {
public:
    Attributes(Api api, const OrtKernelInfo* info) : api_(api), info_(info) {}

    std::int64_t integer(const char* name) const {
        std::int64_t value;
        check(ort::KernelInfoGetAttributeInt::call(api_, info_, name, &value));
        return value;
    }

    float number(const char* name) const {
        float value;
        check(ort::KernelInfoGetAttributeFloat::call(api_, info_, name, &value));
        return value;
    }

    Api api() const { return api_; }

private:
    Api api_;
    const OrtKernelInfo* info_;
};

}  // namespace aurora
