// NV12, which cameras and hardware decoders give, to RGB. It has no Python namesake: PyAV converts there.
//
// In integers, so that it is the same everywhere: with Y, U, V bytes, y0 = 16 (limited range) or 0 (full),
//   r = (cy * (Y - y0)                 + cr * (V - 128) + 2^15) >> 16, clipped to 0..255
//   g = (cy * (Y - y0) - cgu * (U - 128) - cgv * (V - 128) + 2^15) >> 16
//   b = (cy * (Y - y0) + cb * (U - 128)                 + 2^15) >> 16
// and the coefficients of ITU-R BT.601 (kr 0.299, kb 0.114) or BT.709 (kr 0.2126, kb 0.0722), times 2^16, rounded:
// limited range stretches Y by 255 / 219 and chroma by 255 / 224. A chroma sample serves its 2 x 2 pixels as it is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aurora {

enum class ColourMatrix { bt601, bt709 };
enum class ColourRange { limited, full };

struct Nv12Frame {
    const std::uint8_t* y;  // height rows
    std::ptrdiff_t y_stride;
    const std::uint8_t* uv;  // (height + 1) / 2 rows of (width + 1) / 2 pairs U, V
    std::ptrdiff_t uv_stride;
    std::int64_t width, height;
    ColourMatrix matrix = ColourMatrix::bt709;
    ColourRange range = ColourRange::limited;
};

// One row of a frame that was checked, to width * 3 bytes.
void rgb_row_from_nv12(const Nv12Frame& frame, std::int64_t row, std::uint8_t* rgb);

}  // namespace aurora
