#include "embeddings.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "error.h"
#include "text.h"

namespace aurora {
namespace {

constexpr const char* BUILD_AGAIN = "build the bundle again with this version of aurora-export";
constexpr std::size_t MAX_HEADER_BYTES = 10'000;  // as numpy's own limit

// The dictionary literal of a header. Only what numpy.save writes is read: no Python parser is needed.
class Literal {
public:
    explicit Literal(std::string_view text) : text_(text) {}

    bool take(std::string_view token) {
        skip_spaces();
        if (text_.substr(0, token.size()) != token) return false;
        text_.remove_prefix(token.size());
        return true;
    }
    void expect(std::string_view token) {
        if (!take(token)) throw std::runtime_error("its header has no " + std::string(token) + " where one should be");
    }
    std::string text() {
        expect("'");
        const std::size_t end = std::min(text_.find('\''), text_.size());
        std::string value(text_.substr(0, end));
        text_.remove_prefix(end);
        expect("'");
        return value;
    }
    std::int64_t size() {
        skip_spaces();
        std::int64_t value = 0;
        std::size_t n_digits = 0;
        for (; n_digits < text_.size() && text_[n_digits] >= '0' && text_[n_digits] <= '9'; ++n_digits)
            if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, text_[n_digits] - '0', &value))
                throw std::runtime_error("its shape is too large");
        if (!n_digits) throw std::runtime_error("its shape is no tuple of numbers");
        text_.remove_prefix(n_digits);
        return value;
    }
    void expect_end() {
        skip_spaces();
        if (!text_.empty()) throw std::runtime_error("something stands behind its header");
    }

private:
    void skip_spaces() {
        while (!text_.empty() && (text_.front() == ' ' || text_.front() == '\n')) text_.remove_prefix(1);
    }

    std::string_view text_;
};

void read_shape(Literal& literal, NpyHeader& header) {
    std::int64_t sizes[2] = {};
    std::size_t n_sizes = 0;
    literal.expect("(");
    while (!literal.take(")")) {
        const std::int64_t size = literal.size();
        if (n_sizes == 2) throw std::runtime_error("it has more than two dimensions");
        sizes[n_sizes++] = size;
        if (!literal.take(",")) {
            literal.expect(")");
            break;
        }
    }
    if (n_sizes != 2) throw std::runtime_error("it has " + std::to_string(n_sizes) + " dimensions, expected 2");
    header.n_rows = sizes[0], header.n_columns = sizes[1];
}

[[noreturn]] void refuse(const std::string& path, const std::string& what) { throw Error(Status::integrity, path + ": " + what, BUILD_AGAIN); }

}  // namespace

NpyHeader read_npy_header(std::string_view bytes) {
    if (bytes.substr(0, 6) != std::string_view("\x93NUMPY", 6) || bytes.size() < 10) throw std::runtime_error("it does not begin as one");
    const int version = bytes[6];
    if (version < 1 || version > 3 || bytes[7] != 0)
        throw std::runtime_error("format version " + std::to_string(version) + "." + std::to_string(bytes[7]) + " is not known");
    const std::size_t n_length = version == 1 ? 2 : 4, begin = 8 + n_length;
    if (bytes.size() < begin) throw std::runtime_error("it ends in its header");
    std::size_t n_header = 0;
    for (std::size_t i = 0; i < n_length; ++i) n_header |= std::size_t{static_cast<std::uint8_t>(bytes[8 + i])} << (8 * i);
    if (n_header > MAX_HEADER_BYTES)
        throw std::runtime_error("it announces a header of " + std::to_string(n_header) + " bytes; the limit is " + std::to_string(MAX_HEADER_BYTES));
    if (n_header > bytes.size() - begin) throw std::runtime_error("it ends in its header");

    NpyHeader header;
    header.data_begin = begin + n_header;
    Literal literal(bytes.substr(begin, n_header));
    bool has_dtype = false, has_order = false, has_shape = false;
    const auto once = [](bool& seen, const std::string& key) {
        if (seen) throw std::runtime_error("its header has " + key + " twice");
        seen = true;
    };
    literal.expect("{");
    while (!literal.take("}")) {
        const std::string key = literal.text();
        literal.expect(":");
        if (key == "descr") {
            once(has_dtype, key);
            const std::string descr = literal.text();
            header.dtype = descr == "<f4" ? "float32" : descr == "<f2" ? "float16" : first_characters(decode_lossy(descr), 20);
        } else if (key == "fortran_order") {
            once(has_order, key);
            header.fortran_order = literal.take("True");
            if (!header.fortran_order) literal.expect("False");
        } else if (key == "shape") {
            once(has_shape, key);
            read_shape(literal, header);
        } else {
            throw std::runtime_error("its header has the unknown key " + repr(first_characters(decode_lossy(key), 40)));
        }
        if (!literal.take(",")) {
            literal.expect("}");
            break;
        }
    }
    literal.expect_end();
    if (!has_dtype || !has_order || !has_shape) throw std::runtime_error("its header lacks descr, fortran_order or shape");
    return header;
}

Embeddings Embeddings::open(const std::string& path, std::int64_t n_rows, std::int64_t n_columns, const std::string& dtype) {
    Embeddings table(MappedFile(path, "not a numpy array", BUILD_AGAIN));
    table.n_rows_ = n_rows, table.n_columns_ = n_columns, table.is_half_ = dtype == "float16";
    table.check(path, dtype);
    return table;
}

// The header against what is expected, and the size of the file against both.
void Embeddings::check(const std::string& path, const std::string& dtype) {
    NpyHeader header;
    try {
        header = read_npy_header(map_.content().substr(0, MAX_HEADER_BYTES + 12));
    } catch (const std::runtime_error& error) {
        refuse(path, std::string("not a numpy array: ") + error.what());
    }
    const auto shown = [](const std::string& type, std::int64_t rows, std::int64_t columns) {
        return type + " (" + std::to_string(rows) + ", " + std::to_string(columns) + ")";
    };
    if (header.n_rows != n_rows_ || header.n_columns != n_columns_ || header.dtype != dtype)
        refuse(path, shown(header.dtype, header.n_rows, header.n_columns) + ", expected " + shown(dtype, n_rows_, n_columns_) + " by the manifest");
    if (header.fortran_order) refuse(path, "its columns stand one after the other, expected its rows");
    std::size_t n_data = is_half_ ? 2 : 4;
    const bool is_over = __builtin_mul_overflow(n_data, static_cast<std::size_t>(n_rows_), &n_data) ||
                         __builtin_mul_overflow(n_data, static_cast<std::size_t>(n_columns_), &n_data);
    if (is_over || n_data != map_.size() - header.data_begin)
        refuse(path, "its rows need " + std::to_string(n_data) + " bytes, the file has " + std::to_string(map_.size() - header.data_begin));
    data_ = static_cast<const std::uint8_t*>(map_.data()) + header.data_begin;
}

void Embeddings::row(std::int32_t id, float* to) const {
    if (id < 0 || id >= n_rows_)
        throw Error(Status::usage, "token id " + std::to_string(id) + " has no embedding; ids go from 0 to " + std::to_string(n_rows_ - 1));
    const auto n = static_cast<std::size_t>(n_columns_);
    const std::uint8_t* from = data_ + static_cast<std::size_t>(id) * n * (is_half_ ? 2 : 4);
    if (!is_half_) {
        std::memcpy(to, from, n * sizeof(float));
        return;
    }
    for (std::size_t i = 0; i < n; ++i, from += 2)
        to[i] = float_from_half(static_cast<std::uint16_t>(from[0] | from[1] << 8));
}

float float_from_half(std::uint16_t half) {
    const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16, fraction = half & 0x3FFu;
    std::uint32_t exponent = half >> 10 & 0x1Fu, bits = 0;
    if (exponent == 0) {
        // Zero, or fraction * 2^-24, which is a normal float.
        const float value = static_cast<float>(fraction) * 0x1p-24f;
        std::memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    } else {
        exponent = exponent == 31 ? 255 : exponent + 112;
        bits = sign | exponent << 23 | fraction << 13;
    }
    float value = 0;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace aurora
