// Memory, streams and graphs of CUDA with lifetimes of C++ objects, over the driver. Mirrors runtime/cuda_memory.py.
// Never run on a GPU so far.
//
// Everything is freed with its object, and CUDA waits for the GPU before it frees memory. The GPU's primary context is
// used, which is that of the CUDA runtime too; it is made current for a call, and what was current before comes back.
#pragma once

#include <functional>
#include <string>
#include <utility>

#include "nvidia_driver.h"

namespace aurora {

// The driver on one GPU, with errors turned into exceptions.
class Cuda {
public:
    // index: of the GPU. Throws Error: dependency (driver), usage (no such GPU), resources.
    explicit Cuda(int index, const std::string& library = DRIVER_LIBRARY);
    ~Cuda();
    Cuda(const Cuda&) = delete;
    Cuda& operator=(const Cuda&) = delete;

    const Gpu& gpu() const { return gpu_; }
    const Driver& driver() const { return driver_; }

    // Throws Error: resources if memory ran out, unexpected with CUDA's words for any other error of a function.
    void check(CuResult code, const char* function) const;

    // Makes this GPU the calling thread's, until it goes. Throws as check().
    class Current {
    public:
        explicit Current(const Cuda& cuda) : cuda_(cuda) {
            cuda_.check(cuda_.driver_.cuCtxPushCurrent_v2(cuda_.context_), "cuCtxPushCurrent");
        }
        ~Current() {
            CuContext popped = nullptr;
            cuda_.driver_.cuCtxPopCurrent_v2(&popped);
        }
        Current(const Current&) = delete;
        Current& operator=(const Current&) = delete;

    private:
        const Cuda& cuda_;
    };

    // Frees something, with this GPU current. An error then has nobody to go to; the context may be gone already.
    template <typename T>
    void release(CuResult (*Driver::*function)(T), T handle) const noexcept {
        CuContext popped = nullptr;
        const bool is_current = driver_.cuCtxPushCurrent_v2(context_) == 0;
        (driver_.*function)(handle);
        if (is_current) driver_.cuCtxPopCurrent_v2(&popped);
    }

private:
    Driver driver_;
    Gpu gpu_;
    CuContext context_ = nullptr;
};

// Owns one object of CUDA, which `release` frees.
template <typename T, CuResult (*Driver::*release)(T)>
class CudaObject {
public:
    explicit CudaObject(const Cuda& cuda, T handle = T{}) : cuda_(&cuda), handle_(handle) {}
    CudaObject(CudaObject&& other) noexcept : cuda_(other.cuda_), handle_(std::exchange(other.handle_, T{})) {}
    CudaObject& operator=(CudaObject&& other) noexcept {
        std::swap(cuda_, other.cuda_);
        std::swap(handle_, other.handle_);
        return *this;
    }
    ~CudaObject() {
        if (handle_ != T{}) cuda_->release(release, handle_);
    }
    const Cuda& cuda() const { return *cuda_; }
    T get() const { return handle_; }
    T* out() { return &handle_; }

private:
    const Cuda* cuda_;
    T handle_;
};

// What follows is made and used with the GPU current: see Cuda::Current.

// Memory on the GPU, its content arbitrary.
class DeviceArray {
public:
    DeviceArray(const Cuda& cuda, std::size_t n_bytes);
    DeviceAddress address() const { return memory_.get(); }
    std::size_t n_bytes() const { return n_bytes_; }

private:
    std::size_t n_bytes_;
    CudaObject<DeviceAddress, &Driver::cuMemFree_v2> memory_;
};

// Memory of the host that the GPU reads and writes by itself.
class PinnedArray {
public:
    PinnedArray(const Cuda& cuda, std::size_t n_bytes);
    template <typename T>
    T* as() const {
        return static_cast<T*>(memory_.get());
    }
    std::size_t n_bytes() const { return n_bytes_; }

private:
    std::size_t n_bytes_;
    CudaObject<void*, &Driver::cuMemFreeHost> memory_;
};

// A point in a stream that can be waited for.
class Event {
public:
    explicit Event(const Cuda& cuda);
    void wait() const;  // until the stream has passed it; at once if it was never put into one
    CuEvent get() const { return event_.get(); }

private:
    CudaObject<CuEvent, &Driver::cuEventDestroy_v2> event_;
};

// A CUDA graph, ready to be launched.
using CapturedWork = CudaObject<CuGraphExec, &Driver::cuGraphExecDestroy>;

// Work that is done in order, beside that of other streams.
class Stream {
public:
    explicit Stream(const Cuda& cuda);
    void copy_in(DeviceAddress target, const void* source, std::size_t n_bytes) const;  // enqueues a copy from the host
    void copy_out(void* target, DeviceAddress source, std::size_t n_bytes) const;       // enqueues a copy to the host
    void record(const Event& event) const;  // puts an event behind what was enqueued so far
    void wait() const;                      // until everything is done
    void wait_quietly() const noexcept;     // the same where an error has nobody to go to

    // What `enqueue` puts into this stream, to be put there again at once. It is not run now. Throws Error(unexpected) if
    // something of it cannot be captured; the stream is as before then.
    CapturedWork capture(const std::function<void()>& enqueue) const;
    void launch(const CapturedWork& work) const;  // enqueues captured work
    CuStream get() const { return stream_.get(); }

private:
    const Cuda& cuda() const { return stream_.cuda(); }
    CudaObject<CuStream, &Driver::cuStreamDestroy_v2> stream_;
};

}  // namespace aurora
