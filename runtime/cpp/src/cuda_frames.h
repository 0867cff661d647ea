// Frames in the memory of a GPU: checked, and copied to the host, where they are resized as any other frame, to the same
// bits. Tested against a stand-in for the driver; never run on a GPU so far.
#pragma once

#include <optional>

#include "cuda_memory.h"
#include "frames.h"

namespace aurora {

// Copies frames of one GPU, one at a time. It keeps its memory, and allocates only for a frame larger than all before.
class DeviceFrames {
public:
    // cuda: must stay until this goes.
    explicit DeviceFrames(const Cuda& cuda) : cuda_(&cuda) {}

    // Throws as to_host does before it copies.
    void check(const RgbFrame& frame) const;
    void check(const Nv12Frame& frame) const;

    // The frame in memory of the host, rows without gaps; valid until the next call. Its pointers are addresses of the
    // GPU. stream: a CUstream that the copy is put into, and waited for; null: CUDA's default stream.
    // Throws Error(usage) for a frame that Resizer would refuse, and for memory that is not this GPU's or ends before
    // the frame does.
    RgbFrame to_host(const RgbFrame& frame, void* stream);
    Nv12Frame to_host(const Nv12Frame& frame, void* stream);

private:
    struct Plane {
        const char* name;
        const std::uint8_t* first_row;
        std::ptrdiff_t stride;
        std::size_t row_bytes, n_rows;
    };

    static Plane pixels(const RgbFrame& frame);
    static Plane luma(const Nv12Frame& frame);
    static Plane chroma(const Nv12Frame& frame);
    void check_memory(const Plane& plane) const;
    // Returns the first row in memory of the host.
    const std::uint8_t* copy(const Plane& plane, std::uint8_t* to, CuStream stream) const;
    std::uint8_t* host(std::size_t n_bytes);

    const Cuda* cuda_;
    std::optional<PinnedArray> host_;
};

}  // namespace aurora
