#include "cuda_frames.h"

#include <cstdlib>

#include "error.h"

namespace aurora {
namespace {

// CUpointer_attribute
constexpr int MEMORY_TYPE = 2, IS_MANAGED = 8, DEVICE_ORDINAL = 9, RANGE_START = 11, RANGE_SIZE = 12;
constexpr unsigned HOST = 1, DEVICE = 2;  // CUmemorytype
constexpr std::int64_t MAX_STRIDE = (std::int64_t{1} << 31) - 1;  // what CUDA copies by

DeviceAddress address_of(const void* pointer) { return reinterpret_cast<DeviceAddress>(pointer); }

}  // namespace

DeviceFrames::Plane DeviceFrames::pixels(const RgbFrame& frame) {
    return {"data[0]", frame.pixels, frame.row_stride, static_cast<std::size_t>(frame.width) * N_CHANNELS,
            static_cast<std::size_t>(frame.height)};
}

DeviceFrames::Plane DeviceFrames::luma(const Nv12Frame& frame) {
    return {"data[0]", frame.y, frame.y_stride, static_cast<std::size_t>(frame.width), static_cast<std::size_t>(frame.height)};
}

DeviceFrames::Plane DeviceFrames::chroma(const Nv12Frame& frame) {
    return {"data[1]", frame.uv, frame.uv_stride, (static_cast<std::size_t>(frame.width) + 1) / 2 * 2,
            (static_cast<std::size_t>(frame.height) + 1) / 2};
}

void DeviceFrames::check(const RgbFrame& frame) const {
    check_frame(frame);
    const Cuda::Current current(*cuda_);
    check_memory(pixels(frame));
}

void DeviceFrames::check(const Nv12Frame& frame) const {
    check_frame(frame);
    const Cuda::Current current(*cuda_);
    check_memory(luma(frame)), check_memory(chroma(frame));
}

RgbFrame DeviceFrames::to_host(const RgbFrame& frame, void* stream) {
    check(frame);
    const Plane plane = pixels(frame);
    const Cuda::Current current(*cuda_);
    const auto host_stride = static_cast<std::ptrdiff_t>(plane.row_bytes);
    const std::uint8_t* first_row = copy(plane, host(plane.row_bytes * plane.n_rows), static_cast<CuStream>(stream));
    cuda_->check(cuda_->driver().cuStreamSynchronize(static_cast<CuStream>(stream)), "cuStreamSynchronize");
    return {first_row, frame.row_stride < 0 ? -host_stride : host_stride, frame.width, frame.height};
}

Nv12Frame DeviceFrames::to_host(const Nv12Frame& frame, void* stream) {
    check(frame);
    const Plane y = luma(frame), uv = chroma(frame);
    const Cuda::Current current(*cuda_);
    std::uint8_t* to = host(y.row_bytes * y.n_rows + uv.row_bytes * uv.n_rows);
    Nv12Frame copied = frame;
    copied.y = copy(y, to, static_cast<CuStream>(stream));
    try {
        copied.uv = copy(uv, to + y.row_bytes * y.n_rows, static_cast<CuStream>(stream));
    } catch (...) {
        cuda_->driver().cuStreamSynchronize(static_cast<CuStream>(stream));  // the first copy writes until then
        throw;
    }
    cuda_->check(cuda_->driver().cuStreamSynchronize(static_cast<CuStream>(stream)), "cuStreamSynchronize");
    const auto signed_as = [](std::ptrdiff_t stride, std::size_t n) {
        return stride < 0 ? -static_cast<std::ptrdiff_t>(n) : static_cast<std::ptrdiff_t>(n);
    };
    copied.y_stride = signed_as(frame.y_stride, y.row_bytes);
    copied.uv_stride = signed_as(frame.uv_stride, uv.row_bytes);
    return copied;
}

// CUDA would end every stream of the process for an address that is none of its own.
void DeviceFrames::check_memory(const Plane& plane) const {
    const std::string name = std::string("frame.") + plane.name;
    const Driver& driver = cuda_->driver();
    const std::int64_t stride = plane.stride < 0 ? -static_cast<std::int64_t>(plane.stride) : plane.stride;
    if (stride > MAX_STRIDE)
        throw Error(Status::usage, "the stride of " + name + " is " + std::to_string(plane.stride) + "; at most " +
                                       std::to_string(MAX_STRIDE) + " is possible for memory of a GPU");
    const std::size_t before = plane.stride < 0 ? static_cast<std::size_t>(stride) * (plane.n_rows - 1) : 0;
    const std::size_t n_bytes = static_cast<std::size_t>(stride) * (plane.n_rows - 1) + plane.row_bytes;
    const DeviceAddress given = address_of(plane.first_row);
    unsigned type = 0, is_managed = 0;
    CuResult code = driver.cuPointerGetAttribute(&type, MEMORY_TYPE, given);
    if (code == 0) driver.cuPointerGetAttribute(&is_managed, IS_MANAGED, given);
    if (code != 0 || (type != DEVICE && is_managed == 0))
        throw Error(Status::usage, name + (type == HOST ? " is memory of the host" : " is no address that CUDA knows"),
                    "pass a device pointer, or frame.memory AURORA_MEMORY_HOST");
    int device = cuda_->gpu().device;
    driver.cuPointerGetAttribute(&device, DEVICE_ORDINAL, given);
    if (is_managed == 0 && device != cuda_->gpu().device)
        throw Error(Status::usage, name + " is memory of another GPU than the model's, which is GPU " +
                                       std::to_string(cuda_->gpu().index) + " (" + cuda_->gpu().name + ")",
                    "open the model on the GPU that decodes, or copy the frame");
    DeviceAddress start = 0;
    std::size_t size = 0;
    cuda_->check(driver.cuPointerGetAttribute(&start, RANGE_START, given), "cuPointerGetAttribute");
    cuda_->check(driver.cuPointerGetAttribute(&size, RANGE_SIZE, given), "cuPointerGetAttribute");
    // What lies before the start is far behind it, in unsigned numbers.
    if (before > given || n_bytes > size || given - before - start > size - n_bytes)
        throw Error(Status::usage,
                    name + ": " + std::to_string(plane.n_rows) + " rows by a stride of " + std::to_string(plane.stride) +
                        " do not lie in the " + std::to_string(size) + " bytes that were allocated there",
                    "pass the first row's address, the bytes from one row to the next, and the frame's own size");
}

const std::uint8_t* DeviceFrames::copy(const Plane& plane, std::uint8_t* to, CuStream stream) const {
    const bool goes_up = plane.stride < 0;
    CuCopy2d copied{};
    copied.source_type = static_cast<int>(DEVICE);
    const auto before = static_cast<DeviceAddress>(std::abs(plane.stride)) * (plane.n_rows - 1);
    copied.source_device = address_of(plane.first_row) - (goes_up ? before : 0);
    copied.source_pitch = plane.n_rows > 1 ? static_cast<std::size_t>(std::abs(plane.stride)) : plane.row_bytes;
    copied.target_type = static_cast<int>(HOST);
    copied.target_host = to;
    copied.target_pitch = copied.width_bytes = plane.row_bytes;
    copied.height = plane.n_rows;
    cuda_->check(cuda_->driver().cuMemcpy2DAsync_v2(&copied, stream), "cuMemcpy2DAsync");
    return goes_up ? to + plane.row_bytes * (plane.n_rows - 1) : to;
}

std::uint8_t* DeviceFrames::host(std::size_t n_bytes) {
    if (!host_ || host_->n_bytes() < n_bytes) {
        host_.reset();
        host_.emplace(*cuda_, n_bytes);
    }
    return host_->as<std::uint8_t>();
}

}  // namespace aurora
