// Packed and unpacked bit for bit, piece by piece, and never beyond the size that was asked for.
#include "packing.h"

#include <cstring>

#include "golden.h"

namespace aurora::tests {
namespace {

// Gives the stream in pieces of at most `piece` bytes.
PackedSource source_of(const std::vector<std::uint8_t>& packed, std::size_t piece, std::size_t& at) {
    return [&packed, piece, &at](std::uint8_t* to, std::size_t n) {
        n = std::min({n, piece, packed.size() - at});
        if (n) std::memcpy(to, packed.data() + at, n);
        at += n;
        return n;
    };
}

std::string problem(const std::vector<std::uint8_t>& packed, std::size_t n_values) {
    std::vector<float> values(n_values);
    std::size_t at = 0;
    try {
        unpack(source_of(packed, 1000, at), values.data(), values.size(), "(n,)");
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

TEST(Packing, BitForBit) {
    if (!can_pack()) GTEST_SKIP() << "this build has no zlib";
    SplitMix64 random(0);
    for (const std::size_t n : {1, 2, 24, 70'000}) {
        std::vector<float> values(n), unpacked(n);
        for (float& value : values) {
            const auto bits = static_cast<std::uint32_t>(random.next_uint64());
            std::memcpy(&value, &bits, sizeof value);
        }
        const std::vector<std::uint8_t> packed = pack(values.data(), n);
        for (const std::size_t piece : {std::size_t{1}, std::size_t{1000}, packed.size()}) {
            std::size_t at = 0;
            unpack(source_of(packed, piece, at), unpacked.data(), n, "");
            EXPECT_EQ(std::memcmp(values.data(), unpacked.data(), n * sizeof(float)), 0);
        }
    }
}

TEST(Packing, DamagedAndOfAnotherSize) {
    if (!can_pack()) GTEST_SKIP() << "this build has no zlib";
    const std::vector<float> ones(16, 1.0f);
    std::vector<std::uint8_t> packed = pack(ones.data(), ones.size());
    const std::string not_the_size = "its content is not the 64 bytes of the shape (n,)";
    for (std::size_t n = 0; n < packed.size(); ++n) EXPECT_EQ(problem({packed.begin(), packed.begin() + static_cast<std::ptrdiff_t>(n)}, 16), not_the_size);
    EXPECT_EQ(problem(packed, 16), "");
    EXPECT_EQ(problem(packed, 17), "its content is not the 68 bytes of the shape (n,)");
    EXPECT_EQ(problem(packed, 15), "its content is not the 60 bytes of the shape (n,)");
    packed.push_back(0);
    EXPECT_EQ(problem(packed, 16), not_the_size);
    EXPECT_EQ(problem({1, 2, 3, 4}, 16).rfind("it is no zlib stream: ", 0), 0u);
}

}  // namespace
}  // namespace aurora::tests
