// SHA-256 of memory and of files of any size. Mirrors hash_file of core/manifest.py.
//
// Our own, in a hundred lines, because no dependency is worth it: OpenSSL's libcrypto is ten times this library, and the
// small packages have no SHA instructions, which make it four times as fast. Correct by the vectors of FIPS 180-4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace aurora {

class Sha256 {
public:
    using Digest = std::array<std::uint8_t, 32>;

    // By the SHA instructions of the processor where it has them; `use_instructions` = false is for tests.
    explicit Sha256(bool use_instructions = true);

    void update(const void* data, std::size_t n_bytes);

    // Ends the message. The object must not be used after that.
    Digest finish();
    std::string hex();

private:
    void (*compress_)(std::uint32_t* state, const std::uint8_t* blocks, std::size_t n_blocks);
    std::array<std::uint32_t, 8> state_;
    std::array<std::uint8_t, 64> rest_;  // bytes that do not fill a block yet
    std::size_t n_rest_ = 0;
    std::uint64_t n_bytes_ = 0;
};

// Whether this processor has SHA instructions that are used here.
bool has_sha_instructions();

std::string hex_from_bytes(const std::uint8_t* bytes, std::size_t n_bytes);

struct FileEntry {
    std::uint64_t size = 0;
    std::string sha256;  // 64 hex digits
};

// Size and SHA-256 of a file, read in blocks of 1 MiB; a link is not followed.
// `progress`: called with the bytes of each block. Throws Error(integrity) if the file cannot be read.
FileEntry hash_file(const std::string& path, const std::function<void(std::uint64_t)>& progress = {});

}  // namespace aurora
