#include "cuda_memory.h"

#include <algorithm>

#include "error.h"

namespace aurora {
namespace {

constexpr CuResult OUT_OF_MEMORY = 2;  // CUDA_ERROR_OUT_OF_MEMORY
// CU_STREAM_NON_BLOCKING, CU_EVENT_DISABLE_TIMING, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
constexpr unsigned STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2;
constexpr int CAPTURE_THREAD_LOCAL = 1;

using OwnedGraph = CudaObject<CuGraph, &Driver::cuGraphDestroy>;

}  // namespace

Cuda::Cuda(int index, const std::string& library) : driver_(library), gpu_(aurora::gpu(driver_, index)) {
    check(driver_.cuDevicePrimaryCtxRetain(&context_, gpu_.device), "cuDevicePrimaryCtxRetain");
}

Cuda::~Cuda() { driver_.cuDevicePrimaryCtxRelease_v2(gpu_.device); }

void Cuda::check(CuResult code, const char* function) const {
    if (code == 0) return;
    if (code == OUT_OF_MEMORY)
        throw Error(Status::resources, "the GPU's memory ran out", "close other programs, or use a smaller model");
    const char* words = nullptr;
    driver_.cuGetErrorString(code, &words);
    throw Error(Status::unexpected, std::string(function) + ": " + (words == nullptr ? driver_.error_name(code) : words));
}

DeviceArray::DeviceArray(const Cuda& cuda, std::size_t n_bytes) : n_bytes_(n_bytes), memory_(cuda) {
    cuda.check(cuda.driver().cuMemAlloc_v2(memory_.out(), std::max<std::size_t>(n_bytes, 1)), "cuMemAlloc");
}

PinnedArray::PinnedArray(const Cuda& cuda, std::size_t n_bytes) : n_bytes_(n_bytes), memory_(cuda) {
    cuda.check(cuda.driver().cuMemHostAlloc(memory_.out(), std::max<std::size_t>(n_bytes, 1), 0), "cuMemHostAlloc");
}

Event::Event(const Cuda& cuda) : event_(cuda) {
    cuda.check(cuda.driver().cuEventCreate(event_.out(), EVENT_DISABLE_TIMING), "cuEventCreate");
}

void Event::wait() const {
    event_.cuda().check(event_.cuda().driver().cuEventSynchronize(event_.get()), "cuEventSynchronize");
}

Stream::Stream(const Cuda& cuda) : stream_(cuda) {
    cuda.check(cuda.driver().cuStreamCreate(stream_.out(), STREAM_NON_BLOCKING), "cuStreamCreate");
}

void Stream::copy_in(DeviceAddress target, const void* source, std::size_t n_bytes) const {
    cuda().check(cuda().driver().cuMemcpyHtoDAsync_v2(target, source, n_bytes, get()), "cuMemcpyHtoDAsync");
}

void Stream::copy_out(void* target, DeviceAddress source, std::size_t n_bytes) const {
    cuda().check(cuda().driver().cuMemcpyDtoHAsync_v2(target, source, n_bytes, get()), "cuMemcpyDtoHAsync");
}

void Stream::record(const Event& event) const {
    cuda().check(cuda().driver().cuEventRecord(event.get(), get()), "cuEventRecord");
}

void Stream::wait() const { cuda().check(cuda().driver().cuStreamSynchronize(get()), "cuStreamSynchronize"); }

void Stream::wait_quietly() const noexcept { cuda().release(&Driver::cuStreamSynchronize, get()); }

CapturedWork Stream::capture(const std::function<void()>& enqueue) const {
    const Driver& driver = cuda().driver();
    OwnedGraph graph(cuda());
    cuda().check(driver.cuStreamBeginCapture_v2(get(), CAPTURE_THREAD_LOCAL), "cuStreamBeginCapture");
    try {
        enqueue();
    } catch (...) {
        driver.cuStreamEndCapture(get(), graph.out());
        throw;
    }
    cuda().check(driver.cuStreamEndCapture(get(), graph.out()), "cuStreamEndCapture");
    CapturedWork work(cuda());
    cuda().check(driver.cuGraphInstantiateWithFlags(work.out(), graph.get(), 0), "cuGraphInstantiate");
    return work;
}

void Stream::launch(const CapturedWork& work) const {
    cuda().check(cuda().driver().cuGraphLaunch(work.get(), get()), "cuGraphLaunch");
}

}  // namespace aurora
