#include "nv12.h"

#include <algorithm>

namespace aurora {
namespace {

struct Coefficients {
    std::int32_t y, r, gu, gv, b, offset;
};

constexpr Coefficients coefficients(double kr, double kb, bool is_limited) {
    const double kg = 1 - kr - kb, luma = is_limited ? 255.0 / 219 : 1, chroma = is_limited ? 255.0 / 224 : 1;
    const auto fixed = [](double c) { return static_cast<std::int32_t>(c * 65536 + 0.5); };
    return {fixed(luma),
            fixed(2 * (1 - kr) * chroma),
            fixed(2 * (1 - kb) * kb / kg * chroma),
            fixed(2 * (1 - kr) * kr / kg * chroma),
            fixed(2 * (1 - kb) * chroma),
            is_limited ? 16 : 0};
}

constexpr Coefficients TABLE[2][2] = {{coefficients(0.299, 0.114, true), coefficients(0.299, 0.114, false)},
                                      {coefficients(0.2126, 0.0722, true), coefficients(0.2126, 0.0722, false)}};

std::uint8_t pixel(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp((sum + (1 << 15)) >> 16, 0, 255)); }

}  // namespace

void rgb_row_from_nv12(const Nv12Frame& frame, std::int64_t row, std::uint8_t* rgb) {
    const Coefficients& c = TABLE[frame.matrix == ColourMatrix::bt709][frame.range == ColourRange::full];
    const std::uint8_t* y = frame.y + row * frame.y_stride;
    const std::uint8_t* uv = frame.uv + row / 2 * frame.uv_stride;
    for (std::int64_t x = 0; x < frame.width; ++x, rgb += 3) {
        const std::int32_t luma = c.y * (y[x] - c.offset), u = uv[x / 2 * 2] - 128, v = uv[x / 2 * 2 + 1] - 128;
        rgb[0] = pixel(luma + c.r * v);
        rgb[1] = pixel(luma - c.gu * u - c.gv * v);
        rgb[2] = pixel(luma + c.b * u);
    }
}

}  // namespace aurora
