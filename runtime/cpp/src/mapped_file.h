// A file, mapped for reading: graphs to be looked into, engines, the embedding table.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

namespace aurora {

// The file must not become shorter while it is mapped.
class MappedFile {
public:
    // expected: begins what is said of another file, "not an ONNX graph". Throws Error: integrity (not there, a link, no
    // plain file, empty), resources (it cannot be mapped).
    MappedFile(const std::string& path, const std::string& expected, const std::string& hint);
    ~MappedFile();
    MappedFile(MappedFile&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    const void* data() const { return data_; }
    std::size_t size() const { return size_; }
    std::string_view content() const { return {static_cast<const char*>(data_), size_}; }

private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace aurora
