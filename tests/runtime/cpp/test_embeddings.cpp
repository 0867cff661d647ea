// Tables as numpy.save writes them; headers that lie.
#include "embeddings.h"

#include <cmath>
#include <cstring>

#include "golden.h"

namespace aurora::tests {
namespace {

std::string npy(const std::string& header, const std::string& data, const std::string& version = std::string("\x01\x00", 2)) {
    std::string bytes = "\x93NUMPY" + version;
    const std::size_t n = header.size();
    for (std::size_t i = 0; i < (version[0] == 1 ? 2u : 4u); ++i) bytes += static_cast<char>(n >> (8 * i));
    return bytes + header + data;
}

std::string header(const std::string& descr, const std::string& shape, const std::string& order = "False") {
    std::string text = "{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }";
    return text + std::string(117 - text.size(), ' ') + "\n";
}

std::string message(const std::string& bytes, const char* dtype = "float32") {
    const Folder folder;
    write_file(folder / "e.npy", bytes);
    const Refusal found = refusal([&] { Embeddings::open(folder / "e.npy", 2, 3, dtype); });
    if (found.message.empty()) return "";
    EXPECT_EQ(found.status, Status::integrity);
    EXPECT_EQ(found.message.rfind((folder / "e.npy") + ": ", 0), 0u);
    return found.message.substr((folder / "e.npy").size() + 2);
}

TEST(Embeddings, Rows) {
    const Folder folder;
    const float values[6] = {1, -0.0f, 2.5f, 1e-40f, 7, 8};
    for (const char version : {1, 2, 3}) {
        write_file(folder / "e.npy", npy(header("<f4", "(2, 3)"), std::string(reinterpret_cast<const char*>(values), sizeof values), std::string{version, '\0'}));
        const Embeddings table = Embeddings::open(folder / "e.npy", 2, 3, "float32");
        float row[3];
        table.row(1, row);
        EXPECT_EQ(std::memcmp(row, values + 3, sizeof row), 0);
        EXPECT_EQ(refusal([&] { table.row(2, row); }).message, "token id 2 has no embedding; ids go from 0 to 1");
        EXPECT_EQ(refusal([&] { table.row(-1, row); }).message, "token id -1 has no embedding; ids go from 0 to 1");
    }
}

TEST(Embeddings, HalvesAreExact) {
    // 1, -0, 2^-24 (the smallest), 65504 (the largest), infinity, 1/3 rounded
    const std::uint16_t halves[6] = {0x3C00, 0x8000, 0x0001, 0x7BFF, 0x7C00, 0x3555};
    const float expected[6] = {1, -0.0f, 0x1p-24f, 65504, HUGE_VALF, 0x1.554p-2f};
    for (int i = 0; i < 6; ++i) {
        const float value = float_from_half(halves[i]);
        EXPECT_EQ(std::memcmp(&value, &expected[i], sizeof value), 0) << i;
    }
    EXPECT_TRUE(std::isnan(float_from_half(0x7E00)));
    const Folder folder;
    write_file(folder / "e.npy", npy(header("<f2", "(2, 3)"), std::string(reinterpret_cast<const char*>(halves), sizeof halves)));
    float row[3];
    Embeddings::open(folder / "e.npy", 2, 3, "float16").row(0, row);
    EXPECT_EQ(std::memcmp(row, expected, sizeof row), 0);
}

// Every half is a float that gives it back: the table of values is right where its corners and its order are.
TEST(Embeddings, HalvesAreInOrder) {
    for (std::uint16_t half = 0; half < 0x7C00; ++half) {
        EXPECT_LT(float_from_half(half), float_from_half(static_cast<std::uint16_t>(half + 1)));
        EXPECT_EQ(float_from_half(half), -float_from_half(half | 0x8000u));
    }
}

TEST(Embeddings, AnotherShapeOrType) {
    const std::string data(24, '\0');
    EXPECT_EQ(message(npy(header("<f4", "(2, 3)"), data)), "");
    EXPECT_EQ(message(npy(header("<f4", "(7, 8)"), data)), "float32 (7, 8), expected float32 (2, 3) by the manifest");
    EXPECT_EQ(message(npy(header("<f8", "(2, 3)"), data + data)), "<f8 (2, 3), expected float32 (2, 3) by the manifest");
    EXPECT_EQ(message(npy(header("<f2", "(2, 3)"), data)), "float16 (2, 3), expected float32 (2, 3) by the manifest");
    EXPECT_EQ(message(npy(header("<f4", "(2, 3)", "True"), data)), "its columns stand one after the other, expected its rows");
    EXPECT_EQ(message(npy(header("<f4", "(2, 3)"), data + "x")), "its rows need 24 bytes, the file has 25");
    EXPECT_EQ(message(npy(header("<f4", "(2, 3)"), data.substr(1))), "its rows need 24 bytes, the file has 23");
}

TEST(Embeddings, NoTable) {
    const std::string good = npy(header("<f4", "(2, 3)"), std::string(24, '\0'));
    EXPECT_EQ(message(""), "not a numpy array: it is empty");
    for (std::size_t n = 1; n < good.size(); ++n) EXPECT_NE(message(good.substr(0, n)), "") << n;
    EXPECT_EQ(message("PK\x03\x04"), "not a numpy array: it does not begin as one");
    EXPECT_EQ(message(npy(header("|O", "(2, 3)"), "cos\nsystem\n")), "|O (2, 3), expected float32 (2, 3) by the manifest");
    EXPECT_EQ(message(npy(header("<f4", "(2,)"), "")), "not a numpy array: it has 1 dimensions, expected 2");
    EXPECT_EQ(message(npy(header("<f4", "()"), "")), "not a numpy array: it has 0 dimensions, expected 2");
    EXPECT_EQ(message(npy(header("<f4", "(2, 3, 1)"), "")), "not a numpy array: it has more than two dimensions");
    EXPECT_EQ(message(npy(header("<f4", "(99999999999999999999, 3)"), "")), "not a numpy array: its shape is too large");
    EXPECT_EQ(message(npy(header("<f4", "(9223372036854775807, 9223372036854775807)"), "")),
              "float32 (9223372036854775807, 9223372036854775807), expected float32 (2, 3) by the manifest");
    EXPECT_EQ(message(npy(header("<f4", "(-2, 3)"), "")), "not a numpy array: its shape is no tuple of numbers");
    EXPECT_EQ(message(npy(header("<f4", "(2, 3)"), "", std::string("\x04\x00", 2))), "not a numpy array: format version 4.0 is not known");
    EXPECT_EQ(message(npy(std::string(20'000, ' '), "")), "not a numpy array: it announces a header of 20000 bytes; the limit is 10000");
    EXPECT_EQ(message(npy("{'descr': '<f4', 'descr': '<f4'}", "")), "not a numpy array: its header has descr twice");
    EXPECT_EQ(message(npy("{'descr': '<f4'}", "")), "not a numpy array: its header lacks descr, fortran_order or shape");
    EXPECT_EQ(message(npy("{'evil': 1}", "")), "not a numpy array: its header has the unknown key 'evil'");
    EXPECT_EQ(message(npy("__import__('os')", "")), "not a numpy array: its header has no { where one should be");
    EXPECT_EQ(message(npy("{} x", "")), "not a numpy array: something stands behind its header");
}

TEST(Embeddings, ALinkAndAFolder) {
    const Folder folder;
    std::filesystem::create_symlink("/etc/passwd", folder / "e.npy");
    EXPECT_EQ(refusal([&] { Embeddings::open(folder / "e.npy", 2, 3, "float32"); }).status, Status::integrity);
    EXPECT_EQ(refusal([&] { Embeddings::open(folder.path(), 2, 3, "float32"); }).status, Status::integrity);
}

}  // namespace
}  // namespace aurora::tests
