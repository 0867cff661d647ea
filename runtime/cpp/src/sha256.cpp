#include "sha256.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>
#ifndef HWCAP_SHA2
#define HWCAP_SHA2 (1 << 6)
#endif
#endif

namespace aurora {
namespace {

constexpr std::size_t BLOCK = 64;
constexpr std::size_t READ_BYTES = std::size_t{1} << 20;

alignas(16) constexpr std::uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

std::uint32_t rotate(std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); }

// FIPS 180-4, section 6.2.2.
void compress_plain(std::uint32_t* state, const std::uint8_t* data, std::size_t n_blocks) {
    for (; n_blocks; --n_blocks, data += BLOCK) {
        std::uint32_t w[64];
        for (int t = 0; t < 16; ++t)
            w[t] = std::uint32_t{data[4 * t]} << 24 | std::uint32_t{data[4 * t + 1]} << 16 |
                   std::uint32_t{data[4 * t + 2]} << 8 | data[4 * t + 3];
        for (int t = 16; t < 64; ++t) {
            const std::uint32_t a = w[t - 15], b = w[t - 2];
            w[t] = w[t - 16] + (rotate(a, 7) ^ rotate(a, 18) ^ (a >> 3)) + w[t - 7] +
                   (rotate(b, 17) ^ rotate(b, 19) ^ (b >> 10));
        }
        std::uint32_t s[8];
        std::copy(state, state + 8, s);
        for (int t = 0; t < 64; ++t) {
            const std::uint32_t e = s[4], a = s[0];
            const std::uint32_t t1 = s[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) +
                                     ((e & s[5]) ^ (~e & s[6])) + K[t] + w[t];
            const std::uint32_t t2 =
                (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]));
            std::copy_backward(s, s + 7, s + 8);
            s[4] += t1;
            s[0] = t1 + t2;
        }
        for (int i = 0; i < 8; ++i) state[i] += s[i];
    }
}

#if defined(__x86_64__)

__attribute__((target("sha,sse4.1,ssse3"))) void compress_fast(std::uint32_t* state, const std::uint8_t* data,
                                                               std::size_t n_blocks) {
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    // The instructions want the state as (a b e f) and (c d g h).
    __m128i abcd = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state)), 0xB1);
    __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4)), 0x1B);
    __m128i abef = _mm_alignr_epi8(abcd, efgh, 8);
    __m128i cdgh = _mm_blend_epi16(efgh, abcd, 0xF0);
    for (; n_blocks; --n_blocks, data += BLOCK) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; ++i)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * i)), big_endian);
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            __m128i wk = _mm_add_epi32(w[i & 3], _mm_load_si128(reinterpret_cast<const __m128i*>(K + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
            if (i < 12) {
                const __m128i seventh = _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4);
                const __m128i next = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]), seventh);
                w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

bool find_instructions() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const bool has_sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
    return has_sha && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
}

#elif defined(__aarch64__)

__attribute__((target("+crypto"))) void compress_fast(std::uint32_t* state, const std::uint8_t* data,
                                                      std::size_t n_blocks) {
    uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
    for (; n_blocks; --n_blocks, data += BLOCK) {
        const uint32x4_t abcd_before = abcd, efgh_before = efgh;
        uint32x4_t w[4];
        for (int i = 0; i < 4; ++i) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
            const uint32x4_t wk = vaddq_u32(w[i & 3], vld1q_u32(K + 4 * i)), before = abcd;
            abcd = vsha256hq_u32(abcd, efgh, wk);
            efgh = vsha256h2q_u32(efgh, before, wk);
            if (i < 12)
                w[i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]), w[(i + 2) & 3], w[(i + 3) & 3]);
        }
        abcd = vaddq_u32(abcd, abcd_before);
        efgh = vaddq_u32(efgh, efgh_before);
    }
    vst1q_u32(state, abcd);
    vst1q_u32(state + 4, efgh);
}

bool find_instructions() { return (getauxval(AT_HWCAP) & HWCAP_SHA2) != 0; }

#else

constexpr auto compress_fast = compress_plain;

bool find_instructions() { return false; }

#endif

class File {
public:
    explicit File(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW)) {
        if (descriptor_ < 0) fail();
    }
    ~File() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    std::size_t read(std::uint8_t* to, std::size_t n_bytes) {
        for (;;) {
            const ssize_t n = ::read(descriptor_, to, n_bytes);
            if (n >= 0) return static_cast<std::size_t>(n);
            if (errno != EINTR) fail();
        }
    }

private:
    [[noreturn]] void fail() const {
        throw Error(Status::integrity, path_ + ": cannot be read: " + std::strerror(errno),
                    "copy the bundle again from where it came from, or build it again");
    }

    const std::string& path_;
    int descriptor_;
};

}  // namespace

bool has_sha_instructions() {
    static const bool found = find_instructions();
    return found;
}

Sha256::Sha256(bool use_instructions)
    : compress_(use_instructions && has_sha_instructions() ? compress_fast : compress_plain),
      state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
      rest_{} {}

void Sha256::update(const void* data, std::size_t n_bytes) {
    const auto* bytes = static_cast<const std::uint8_t*>(data);
    n_bytes_ += n_bytes;
    if (n_rest_) {
        const std::size_t n = std::min(n_bytes, BLOCK - n_rest_);
        std::copy(bytes, bytes + n, rest_.begin() + static_cast<std::ptrdiff_t>(n_rest_));
        n_rest_ += n, bytes += n, n_bytes -= n;
        if (n_rest_ < BLOCK) return;
        compress_(state_.data(), rest_.data(), 1);
        n_rest_ = 0;
    }
    compress_(state_.data(), bytes, n_bytes / BLOCK);
    bytes += n_bytes / BLOCK * BLOCK;
    n_rest_ = n_bytes % BLOCK;
    std::copy(bytes, bytes + n_rest_, rest_.begin());
}

Sha256::Digest Sha256::finish() {
    const std::uint64_t n_bits = n_bytes_ * 8;
    std::uint8_t end[BLOCK + 8] = {0x80};
    const std::size_t n_padding = (n_rest_ < 56 ? 56 : 120) - n_rest_;
    for (int i = 0; i < 8; ++i) end[n_padding + static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(n_bits >> (56 - 8 * i));
    update(end, n_padding + 8);
    Digest digest{};
    for (std::size_t i = 0; i < 32; ++i) digest[i] = static_cast<std::uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    return digest;
}

std::string Sha256::hex() {
    const Digest digest = finish();
    return hex_from_bytes(digest.data(), digest.size());
}

std::string hex_from_bytes(const std::uint8_t* bytes, std::size_t n_bytes) {
    std::string text;
    text.reserve(2 * n_bytes);
    for (std::size_t i = 0; i < n_bytes; ++i) {
        text += "0123456789abcdef"[bytes[i] >> 4];
        text += "0123456789abcdef"[bytes[i] & 15];
    }
    return text;
}

FileEntry hash_file(const std::string& path, const std::function<void(std::uint64_t)>& progress) {
    File file(path);
    Sha256 digest;
    FileEntry entry;
    std::vector<std::uint8_t> block(READ_BYTES);
    while (const std::size_t n = file.read(block.data(), block.size())) {
        digest.update(block.data(), n);
        entry.size += n;
        if (progress) progress(n);
    }
    entry.sha256 = digest.hex();
    return entry;
}

}  // namespace aurora
