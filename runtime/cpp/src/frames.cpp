#include "frames.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "error.h"

namespace aurora {
namespace {

constexpr int FIXED_POINT_BITS = 22;
constexpr double KERNEL_SUPPORT = 2.0;
constexpr std::size_t KEPT_AXES = 8;

std::string text(std::int64_t n) { return std::to_string(n); }

void check_size(std::int64_t width, std::int64_t height) {
    if (width < 1 || width > MAX_SIDE || height < 1 || height > MAX_SIDE)
        throw Error(Status::usage, "a frame of " + text(width) + " x " + text(height) + " pixels; each side must be from 1 to " + text(MAX_SIDE));
}

void check_plane(const char* name, const std::uint8_t* pixels, std::ptrdiff_t stride, std::int64_t row_bytes, std::int64_t n_rows) {
    if (!pixels) throw Error(Status::usage, std::string("the ") + name + " of the frame are NULL", "pass a pointer to the first row");
    if (n_rows > 1 && std::abs(static_cast<std::int64_t>(stride)) < row_bytes)
        throw Error(Status::usage,
                    std::string("the rows of the ") + name + " have " + text(row_bytes) + " bytes, and the stride is " + text(stride),
                    "pass the bytes from one row to the next, padding included");
}

// The horizontal and the vertical pass read the same kernel: Keys' cubic convolution with a = -0.5.
double bicubic_kernel(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

// The arithmetic shift of a negative number is what every compiler that is supported here does.
std::uint8_t pixel(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> FIXED_POINT_BITS, 0, 255)); }

constexpr std::int32_t HALF = 1 << (FIXED_POINT_BITS - 1);

}  // namespace

Resizer::Resizer(std::int64_t size, const std::string& mode, const std::array<std::uint8_t, 3>& pad_value)
    : size_(size), mode_(mode), pad_value_(pad_value) {
    if (size < 1 || size > MAX_IMAGE_SIZE)
        throw Error(Status::usage, "the image size is " + text(size) + "; it must be a whole number from 1 to " + text(MAX_IMAGE_SIZE));
    if (mode != "crop" && mode != "squash" && mode != "pad")
        throw Error(Status::usage, "unknown resize mode '" + mode + "'", "modes: crop, squash, pad");
}

void check_frame(const RgbFrame& frame) {
    check_size(frame.width, frame.height);
    check_plane("pixels", frame.pixels, frame.row_stride, frame.width * static_cast<std::int64_t>(N_CHANNELS), frame.height);
}

void check_frame(const Nv12Frame& frame) {
    check_size(frame.width, frame.height);
    check_plane("luma", frame.y, frame.y_stride, frame.width, frame.height);
    check_plane("chroma", frame.uv, frame.uv_stride, (frame.width + 1) / 2 * 2, (frame.height + 1) / 2);
}

void Resizer::resize(const RgbFrame& frame, std::uint8_t* out) {
    check_frame(frame);
    resize_rows(frame.width, frame.height, [&](std::int64_t row) { return frame.pixels + row * frame.row_stride; }, out);
}

void Resizer::resize(const Nv12Frame& frame, std::uint8_t* out) {
    check_frame(frame);
    rgb_row_.resize(static_cast<std::size_t>(frame.width) * N_CHANNELS);
    resize_rows(
        frame.width, frame.height,
        [&](std::int64_t row) {
            rgb_row_from_nv12(frame, row, rgb_row_.data());
            return static_cast<const std::uint8_t*>(rgb_row_.data());
        },
        out);
}

// Geometry of the three modes, then the horizontal pass over the rows that the vertical one needs, then that.
void Resizer::resize_rows(std::int64_t width, std::int64_t height, RowSource& source, std::uint8_t* out) {
    const std::int64_t side = std::max(width, height), shorter = std::min(width, height);
    const bool is_padded = mode_ == "pad" && width != height;
    const std::int64_t n_columns = is_padded ? side : width, n_rows = is_padded ? side : height;
    std::int64_t full_width = size_, full_height = size_;
    if (mode_ == "crop") full_width = size_ * width / shorter, full_height = size_ * height / shorter;
    const Axis& columns = axis(n_columns, full_width, (full_width - size_) / 2);
    const Axis& rows = axis(n_rows, full_height, (full_height - size_) / 2);

    const std::int64_t first_row = rows.first.front();
    std::int64_t end_row = 0;
    for (std::size_t i = 0; i < rows.first.size(); ++i) end_row = std::max<std::int64_t>(end_row, rows.first[i] + rows.n_taps[i]);
    const std::size_t narrow_bytes = static_cast<std::size_t>(size_) * N_CHANNELS;
    narrow_.resize(static_cast<std::size_t>(end_row - first_row) * narrow_bytes);
    const std::int64_t top = (n_rows - height) / 2, left = (n_columns - width) / 2;
    if (is_padded) {
        padded_row_.resize(static_cast<std::size_t>(side) * N_CHANNELS);
        for (std::size_t i = 0; i < padded_row_.size(); ++i) padded_row_[i] = pad_value_[i % N_CHANNELS];
    }
    for (std::int64_t row = first_row; row < end_row; ++row) {
        std::uint8_t* narrow = narrow_.data() + static_cast<std::size_t>(row - first_row) * narrow_bytes;
        if (row < top || row >= top + height) {
            // A plain row stays plain.
            for (std::size_t i = 0; i < narrow_bytes; ++i) narrow[i] = pad_value_[i % N_CHANNELS];
            continue;
        }
        const std::uint8_t* wide = source(row - top);
        if (is_padded) {
            std::copy(wide, wide + width * static_cast<std::int64_t>(N_CHANNELS), padded_row_.begin() + left * static_cast<std::int64_t>(N_CHANNELS));
            wide = padded_row_.data();
        }
        shrink_row(wide, columns, narrow);
    }
    join_rows(rows, first_row, out);
}

const Resizer::Axis& Resizer::axis(std::int64_t n_in, std::int64_t n_out, std::int64_t start) {
    const auto known = std::find_if(axes_.begin(), axes_.end(), [&](const Axis& a) { return a.n_in == n_in && a.n_out == n_out && a.start == start; });
    if (known != axes_.end()) {
        axes_.splice(axes_.begin(), axes_, known);
        return axes_.front();
    }
    Axis made{n_in, n_out, start, {}, {}, {}};
    const auto n = static_cast<std::size_t>(size_);
    made.first.resize(n), made.n_taps.resize(n);
    // In this order of operations: see core/frames.py.
    const double scale = static_cast<double>(n_in) / static_cast<double>(n_out);
    const double stretch = std::max(scale, 1.0), support = KERNEL_SUPPORT * stretch;
    const bool is_same = n_in == n_out;
    for (std::size_t o = 0; o < n; ++o) {
        const double center = (static_cast<double>(start + static_cast<std::int64_t>(o)) + 0.5) * scale;
        const auto first = static_cast<std::int64_t>(std::max(std::trunc(center - support + 0.5), 0.0));
        const auto end = static_cast<std::int64_t>(std::min(std::trunc(center + support + 0.5), static_cast<double>(n_in)));
        made.first[o] = static_cast<std::int32_t>(is_same ? start + static_cast<std::int64_t>(o) : first);
        made.n_taps[o] = static_cast<std::int32_t>(is_same ? 1 : end - first);
        made.max_taps = std::max(made.max_taps, static_cast<std::size_t>(made.n_taps[o]));
    }
    if (!is_same) made.weights.assign(n * made.max_taps, 0);
    std::vector<double> weights(made.max_taps);
    for (std::size_t o = 0; o < n && !is_same; ++o) {
        const double center = (static_cast<double>(start + static_cast<std::int64_t>(o)) + 0.5) * scale;
        const auto n_taps = static_cast<std::size_t>(made.n_taps[o]);
        double total = 0;
        for (std::size_t t = 0; t < n_taps; ++t) {
            const double input = static_cast<double>(made.first[o] + static_cast<std::int32_t>(t));
            weights[t] = bicubic_kernel(((input - center) + 0.5) * (1.0 / stretch));
            total += weights[t];
        }
        for (std::size_t t = 0; t < n_taps; ++t) {
            const double fixed = weights[t] / total * (1 << FIXED_POINT_BITS);
            made.weights[o * made.max_taps + t] = static_cast<std::int32_t>(std::trunc(fixed + (fixed < 0 ? -0.5 : 0.5)));
        }
    }
    axes_.push_front(std::move(made));
    // Both axes of a frame stay.
    if (axes_.size() > KEPT_AXES) axes_.pop_back();
    return axes_.front();
}

void Resizer::shrink_row(const std::uint8_t* row, const Axis& columns, std::uint8_t* out) const {
    const auto n = static_cast<std::size_t>(size_);
    if (columns.n_in == columns.n_out) {
        std::copy_n(row + static_cast<std::size_t>(columns.start) * N_CHANNELS, n * N_CHANNELS, out);
        return;
    }
    const std::int32_t* weights = columns.weights.data();
    for (std::size_t o = 0; o < n; ++o, weights += columns.max_taps, out += N_CHANNELS) {
        const std::uint8_t* in = row + static_cast<std::size_t>(columns.first[o]) * N_CHANNELS;
        std::int32_t red = HALF, green = HALF, blue = HALF;
        for (std::int32_t t = 0; t < columns.n_taps[o]; ++t, in += N_CHANNELS) {
            red += weights[t] * in[0];
            green += weights[t] * in[1];
            blue += weights[t] * in[2];
        }
        out[0] = pixel(red), out[1] = pixel(green), out[2] = pixel(blue);
    }
}

void Resizer::join_rows(const Axis& rows, std::int64_t first_row, std::uint8_t* out) {
    const std::size_t row_bytes = static_cast<std::size_t>(size_) * N_CHANNELS;
    if (rows.n_in == rows.n_out) {
        std::copy(narrow_.begin(), narrow_.end(), out);
        return;
    }
    sums_.resize(row_bytes);
    for (std::size_t o = 0; o < static_cast<std::size_t>(size_); ++o, out += row_bytes) {
        std::fill(sums_.begin(), sums_.end(), HALF);
        const std::uint8_t* in = narrow_.data() + static_cast<std::size_t>(rows.first[o] - first_row) * row_bytes;
        for (std::int32_t t = 0; t < rows.n_taps[o]; ++t, in += row_bytes) {
            const std::int32_t weight = rows.weights[o * rows.max_taps + static_cast<std::size_t>(t)];
            for (std::size_t i = 0; i < row_bytes; ++i) sums_[i] += weight * in[i];
        }
        for (std::size_t i = 0; i < row_bytes; ++i) out[i] = pixel(sums_[i]);
    }
}

}  // namespace aurora
