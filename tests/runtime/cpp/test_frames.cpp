// Resized frames equal to Python's to the bit, from rows with gaps and from NV12; what is refused.
#include "frames.h"

#include <cstring>

#include "golden.h"
#include "sha256.h"

namespace aurora::tests {
namespace {

std::uint8_t value_at(std::int64_t row, std::int64_t column, std::int64_t channel) {
    return static_cast<std::uint8_t>((row * 7919 + column * 104729 + channel * 1299709) % 65521 % 256);
}

struct Picture {
    std::vector<std::uint8_t> bytes;
    std::ptrdiff_t stride;
};

// Channels first .. first + n of the pixels, rows `gap` bytes apart, which hold what must not be seen.
Picture picture(std::int64_t height, std::int64_t width, std::int64_t first, std::int64_t n, std::int64_t gap) {
    Picture made{{}, width * n + gap};
    made.bytes.assign(static_cast<std::size_t>(height * made.stride), 0xEE);
    for (std::int64_t row = 0; row < height; ++row)
        for (std::int64_t i = 0; i < width * n; ++i)
            made.bytes[static_cast<std::size_t>(row * made.stride + i)] = value_at(row, i / n, first + i % n);
    return made;
}

std::string digest(const std::vector<std::uint8_t>& bytes) {
    Sha256 sha;
    sha.update(bytes.data(), bytes.size());
    return sha.hex();
}

std::vector<std::uint8_t> output(std::int64_t size) { return std::vector<std::uint8_t>(static_cast<std::size_t>(size * size) * 3); }

TEST(Frames, ResizedAsPython) {
    const json recorded = golden("frames.json");
    const std::array<std::uint8_t, 3> pad = recorded["pad_value"];
    for (const json& entry : recorded["resized"]) {
        const auto height = entry["height"].get<std::int64_t>(), width = entry["width"].get<std::int64_t>(), size = entry["size"].get<std::int64_t>();
        Resizer resizer(size, entry["mode"], pad);
        std::vector<std::uint8_t> out = output(size);
        for (const std::int64_t gap : {0, 5}) {
            const Picture frame = picture(height, width, 0, 3, gap);
            resizer.resize(RgbFrame{frame.bytes.data(), frame.stride, width, height}, out.data());
            EXPECT_EQ(digest(out), entry["sha256"].get<std::string>()) << width << "x" << height << " to " << size << " " << entry["mode"];
        }
        // Upside down, rows in the other order.
        Picture flipped = picture(height, width, 0, 3, 0);
        for (std::int64_t row = 0; row < height / 2; ++row)
            std::swap_ranges(flipped.bytes.begin() + row * flipped.stride, flipped.bytes.begin() + (row + 1) * flipped.stride,
                             flipped.bytes.begin() + (height - 1 - row) * flipped.stride);
        resizer.resize(RgbFrame{flipped.bytes.data() + (height - 1) * flipped.stride, -flipped.stride, width, height}, out.data());
        EXPECT_EQ(digest(out), entry["sha256"].get<std::string>());
    }
}

TEST(Frames, Nv12) {
    const json recorded = golden("frames.json");
    const std::array<std::uint8_t, 3> pad = recorded["pad_value"];
    for (const json& entry : recorded["nv12"]) {
        const auto height = entry["height"].get<std::int64_t>(), width = entry["width"].get<std::int64_t>();
        const Picture luma = picture(height, width, 0, 1, 3), chroma = picture((height + 1) / 2, (width + 1) / 2, 1, 2, 4);
        const Nv12Frame frame{luma.bytes.data(), luma.stride, chroma.bytes.data(), chroma.stride, width, height,
                              entry["matrix"] == "bt601" ? ColourMatrix::bt601 : ColourMatrix::bt709,
                              entry["range"] == "full" ? ColourRange::full : ColourRange::limited};
        std::vector<std::uint8_t> rgb(static_cast<std::size_t>(width * height) * 3);
        for (std::int64_t row = 0; row < height; ++row) rgb_row_from_nv12(frame, row, rgb.data() + row * width * 3);
        EXPECT_EQ(digest(rgb), entry["sha256"].get<std::string>()) << entry;
        std::vector<std::uint8_t> out = output(24);
        Resizer(24, "pad", pad).resize(frame, out.data());
        EXPECT_EQ(digest(out), entry["resized"].get<std::string>()) << entry;
    }
}

TEST(Frames, OneResizerServesFramesOfManySizes) {
    Resizer kept(16, "crop");
    for (std::int64_t round = 0; round < 40; ++round) {
        const std::int64_t height = 1 + round * 7 % 50, width = 1 + round * 13 % 60;
        const Picture frame = picture(height, width, 0, 3, 0);
        std::vector<std::uint8_t> a = output(16), b = output(16);
        kept.resize(RgbFrame{frame.bytes.data(), frame.stride, width, height}, a.data());
        Resizer(16, "crop").resize(RgbFrame{frame.bytes.data(), frame.stride, width, height}, b.data());
        EXPECT_EQ(a, b);
    }
}

TEST(Frames, APlainFrameStaysPlain) {
    for (const int colour : {0, 1, 127, 254, 255}) {
        const std::vector<std::uint8_t> bytes(37 * 91 * 3, static_cast<std::uint8_t>(colour));
        std::vector<std::uint8_t> out = output(48);
        Resizer(48, "squash").resize(RgbFrame{bytes.data(), 91 * 3, 91, 37}, out.data());
        EXPECT_EQ(out, std::vector<std::uint8_t>(out.size(), static_cast<std::uint8_t>(colour)));
    }
}

TEST(Frames, BadFramesAreRefused) {
    Resizer resizer(8, "crop");
    std::vector<std::uint8_t> bytes(64), out = output(8);
    const auto message = [&](std::int64_t width, std::int64_t height, std::ptrdiff_t stride, const std::uint8_t* pixels) {
        const Refusal refused = refusal([&] { resizer.resize(RgbFrame{pixels, stride, width, height}, out.data()); });
        EXPECT_EQ(refused.status, Status::usage);
        return refused.message;
    };
    EXPECT_EQ(message(0, 4, 12, bytes.data()), "a frame of 0 x 4 pixels; each side must be from 1 to 16384");
    EXPECT_EQ(message(1, 16385, 3, bytes.data()), "a frame of 1 x 16385 pixels; each side must be from 1 to 16384");
    EXPECT_EQ(message(-1, 4, 12, bytes.data()), "a frame of -1 x 4 pixels; each side must be from 1 to 16384");
    EXPECT_EQ(message(4, 4, 11, bytes.data()), "the rows of the pixels have 12 bytes, and the stride is 11");
    EXPECT_EQ(message(4, 4, 0, bytes.data()), "the rows of the pixels have 12 bytes, and the stride is 0");
    EXPECT_EQ(message(4, 4, 12, nullptr), "the pixels of the frame are NULL");
    const Refusal refused = refusal([&] { resizer.resize(Nv12Frame{bytes.data(), 4, bytes.data(), 3, 4, 4}, out.data()); });
    EXPECT_EQ(refused.message, "the rows of the chroma have 4 bytes, and the stride is 3");
    EXPECT_EQ(refusal([] { Resizer(0, "crop"); }).message, "the image size is 0; it must be a whole number from 1 to 4096");
    EXPECT_EQ(refusal([] { Resizer(5000, "crop"); }).message, "the image size is 5000; it must be a whole number from 1 to 4096");
    EXPECT_EQ(refusal([] { Resizer(8, "fit"); }).message, "unknown resize mode 'fit'");
}

}  // namespace
}  // namespace aurora::tests
