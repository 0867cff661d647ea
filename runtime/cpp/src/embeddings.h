// The embedding table of a bundle, mapped from its .npy file: only the rows in use are in memory.
// Mirrors _open_embeddings and embed_ids of runtime/opened_bundle.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "mapped_file.h"

namespace aurora {

// A table in the NPY format, versions 1 to 3, as numpy.save writes a matrix.
struct NpyHeader {
    std::string dtype;  // float32, float16; others as numpy's descr, <f8
    bool fortran_order = false;
    std::int64_t n_rows = 0, n_columns = 0;
    std::size_t data_begin = 0;
};

// Read the header at the start of a file. Throws std::runtime_error that says what is wrong.
NpyHeader read_npy_header(std::string_view bytes);

// Immutable; safe to share between threads. The file must not become shorter meanwhile.
class Embeddings {
public:
    // Map a file. Throws Error(integrity) unless it is a table of exactly this shape and type (float32 or float16).
    static Embeddings open(const std::string& path, std::int64_t n_rows, std::int64_t n_columns, const std::string& dtype);

    // Write the embedding of a token, n_columns float32. Throws Error(usage) for an id that has no row.
    void row(std::int32_t id, float* to) const;

    std::int64_t n_rows() const { return n_rows_; }
    std::int64_t n_columns() const { return n_columns_; }

private:
    explicit Embeddings(MappedFile map) : map_(std::move(map)) {}
    void check(const std::string& path, const std::string& dtype);

    MappedFile map_;
    const std::uint8_t* data_ = nullptr;
    std::int64_t n_rows_ = 0, n_columns_ = 0;
    bool is_half_ = false;
};

// An IEEE half to float, exactly.
float float_from_half(std::uint16_t half);

}  // namespace aurora
