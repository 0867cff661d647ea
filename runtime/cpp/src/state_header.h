// What stands before the tensors of a state file: read, and checked against the size of the file.
// Mirrors read_state_header and its parts in runtime/state.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "state_file.h"

namespace aurora {

constexpr const char* FORMAT_VERSION = "2";  // what is written; 1 is read too
constexpr const char* SAVE_AGAIN = "make it again with `aurora-export ingest`; a damaged state cannot be repaired";

// Bytes that need not all be in memory.
class StateSource {
public:
    explicit StateSource(std::string name) : name_(std::move(name)) {}
    virtual ~StateSource() = default;
    StateSource(const StateSource&) = delete;
    StateSource& operator=(const StateSource&) = delete;

    virtual std::uint64_t size() const = 0;
    // Exactly n_bytes from `at`, which lie inside. Throws Error(integrity) if they cannot be had.
    virtual void read(std::uint64_t at, void* to, std::size_t n_bytes) const = 0;
    const std::string& name() const { return name_; }

private:
    std::string name_;
};

class MemorySource : public StateSource {
public:
    MemorySource(std::string_view bytes, std::string name) : StateSource(std::move(name)), bytes_(bytes) {}
    std::uint64_t size() const override { return bytes_.size(); }
    void read(std::uint64_t at, void* to, std::size_t n_bytes) const override;

private:
    std::string_view bytes_;
};

class FileSource : public StateSource {
public:
    // Throws Error(usage) if there is no such plain file.
    explicit FileSource(const std::string& path);
    ~FileSource() override;
    std::uint64_t size() const override { return size_; }
    void read(std::uint64_t at, void* to, std::size_t n_bytes) const override;

private:
    int descriptor_;
    std::uint64_t size_;
};

struct TensorPlace {
    std::vector<std::int64_t> shape;
    std::uint64_t begin, end;  // in the file
};

struct StateLayout {
    StateFile file;
    std::array<TensorPlace, N_STATES> tensors;  // in the order of STATE_NAMES
};

// Throws Error(integrity) or Error(incompatible); reads no more than MAX_STATE_HEADER_BYTES.
StateLayout read_layout(const StateSource& source);

// As Python writes a list or a tuple of numbers.
std::string text_of_shape(const std::vector<std::int64_t>& shape, char open, char close);

}  // namespace aurora
