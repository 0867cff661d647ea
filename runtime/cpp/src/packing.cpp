#include "packing.h"

#include <array>
#include <cstring>
#include <stdexcept>

#include "error.h"

#ifdef AURORA_HAS_ZLIB
#include <zlib.h>
#endif

namespace aurora {

#ifdef AURORA_HAS_ZLIB

namespace {

constexpr int ZLIB_LEVEL = 6;
constexpr std::size_t VALUE_BYTES = sizeof(float);
constexpr std::size_t PIECE_BYTES = std::size_t{64} << 10;

// Ends a stream however its function is left.
struct Inflate : z_stream {
    Inflate() : z_stream{} {
        if (inflateInit(this) != Z_OK) throw std::bad_alloc();
    }
    ~Inflate() { inflateEnd(this); }
    Inflate(const Inflate&) = delete;
    Inflate& operator=(const Inflate&) = delete;
};

[[noreturn]] void refuse_size(std::size_t n_bytes, const std::string& shape) {
    throw std::runtime_error("its content is not the " + std::to_string(n_bytes) + " bytes of the shape " + shape);
}

}  // namespace

bool can_pack() { return true; }

std::vector<std::uint8_t> pack(const float* values, std::size_t n_values) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is little-endian");
    const std::size_t n_bytes = n_values * VALUE_BYTES;
    std::vector<std::uint8_t> planes(n_bytes);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(values);
    for (std::size_t i = 0; i < n_values; ++i)
        for (std::size_t plane = 0; plane < VALUE_BYTES; ++plane) planes[plane * n_values + i] = bytes[i * VALUE_BYTES + plane];
    uLongf n_packed = compressBound(static_cast<uLong>(n_bytes));
    std::vector<std::uint8_t> packed(n_packed);
    if (compress2(packed.data(), &n_packed, planes.data(), static_cast<uLong>(n_bytes), ZLIB_LEVEL) != Z_OK) throw std::bad_alloc();
    packed.resize(n_packed);
    return packed;
}

void unpack(const PackedSource& source, float* values, std::size_t n_values, const std::string& shape) {
    const std::size_t n_bytes = n_values * VALUE_BYTES;
    auto* bytes = reinterpret_cast<std::uint8_t*>(values);
    std::vector<std::uint8_t> in(PIECE_BYTES), out(PIECE_BYTES);
    Inflate stream;
    std::size_t n_out = 0;
    int result = Z_OK;
    while (result != Z_STREAM_END) {
        if (!stream.avail_in) {
            stream.avail_in = static_cast<uInt>(source(in.data(), in.size()));
            stream.next_in = in.data();
            if (!stream.avail_in) refuse_size(n_bytes, shape);
        }
        stream.next_out = out.data(), stream.avail_out = static_cast<uInt>(out.size());
        result = inflate(&stream, Z_NO_FLUSH);
        if (result == Z_MEM_ERROR) throw std::bad_alloc();
        if (result != Z_OK && result != Z_STREAM_END && result != Z_BUF_ERROR)
            throw std::runtime_error(std::string("it is no zlib stream: ") + (stream.msg ? stream.msg : "invalid data"));
        const std::size_t n = out.size() - stream.avail_out;
        if (n > n_bytes - n_out) refuse_size(n_bytes, shape);
        for (std::size_t i = 0; i < n; ++i, ++n_out) bytes[n_out % n_values * VALUE_BYTES + n_out / n_values] = out[i];
    }
    std::uint8_t more = 0;
    if (n_out != n_bytes || stream.avail_in || source(&more, 1)) refuse_size(n_bytes, shape);
}

#else

namespace {

[[noreturn]] void refuse() {
    throw Error(Status::dependency, "this library was built without zlib, so packed states cannot be read or written",
                "build it with zlib (Debian: zlib1g-dev), or save the state without `packed`");
}

}  // namespace

bool can_pack() { return false; }

std::vector<std::uint8_t> pack(const float*, std::size_t) { refuse(); }

void unpack(const PackedSource&, float*, std::size_t, const std::string&) { refuse(); }

#endif

}  // namespace aurora
