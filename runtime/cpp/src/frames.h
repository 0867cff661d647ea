// A video frame of any size to the square uint8 image that the vision graph takes. Mirrors core/frames.py, whose first
// lines hold the algorithm; the same to the bit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "nv12.h"

namespace aurora {

constexpr std::int64_t MAX_SIDE = 16384;  // of an input frame, in pixels
constexpr std::int64_t MAX_IMAGE_SIZE = 4096;
constexpr std::size_t N_CHANNELS = 3;

struct RgbFrame {
    const std::uint8_t* pixels;  // height rows of width * 3 bytes
    std::ptrdiff_t row_stride;   // bytes from one row to the next; negative for a picture that lies upside down
    std::int64_t width, height;
};

// Throws Error(usage) for a frame that is empty, over MAX_SIDE, without pixels, or whose rows overlap.
void check_frame(const RgbFrame& frame);
void check_frame(const Nv12Frame& frame);

// Keeps its tables and buffers from frame to frame: allocates nothing while frames keep their size. For one thread.
class Resizer {
public:
    // mode: crop, squash or pad, as resize_frame in Python. Throws Error(usage) for a bad option.
    Resizer(std::int64_t size, const std::string& mode, const std::array<std::uint8_t, 3>& pad_value = {{127, 127, 127}});

    // Write size * size * 3 bytes. Throws as check_frame.
    void resize(const RgbFrame& frame, std::uint8_t* out);
    void resize(const Nv12Frame& frame, std::uint8_t* out);

    std::int64_t size() const { return size_; }

private:
    // Where the pixels of an axis come from: for output o, weights of the input pixels first[o] .. first[o] + n_taps[o].
    struct Axis {
        std::int64_t n_in, n_out, start;
        std::vector<std::int32_t> first, n_taps, weights;  // weights: max_taps for each output
        std::size_t max_taps = 0;
    };
    using RowSource = const std::function<const std::uint8_t*(std::int64_t row)>;

    void resize_rows(std::int64_t width, std::int64_t height, RowSource& source, std::uint8_t* out);
    const Axis& axis(std::int64_t n_in, std::int64_t n_out, std::int64_t start);
    void shrink_row(const std::uint8_t* row, const Axis& columns, std::uint8_t* out) const;
    void join_rows(const Axis& rows, std::int64_t first_row, std::uint8_t* out);

    std::int64_t size_;
    std::string mode_;
    std::array<std::uint8_t, 3> pad_value_;
    std::list<Axis> axes_;  // the last ones used, the newest first
    std::vector<std::uint8_t> rgb_row_, padded_row_, narrow_;
    std::vector<std::int32_t> sums_;
};

}  // namespace aurora
