// Rounding of activations to 8 bits by blocks, and what products share. Included once per level, after cpu/simd.h.
//
// A product step (`dot4`) takes four weights and four activations in each lane. Sums of a block are exact in int32; at
// its end they become floats, times the two scales. The weights lie in the file as codes of 128 + weight, 0 to 255.
// A level whose dot4 wants signed weights says so by OFFSET = 0, and flips the highest bit, which subtracts 128.
#pragma once

#include "../cpu/levels.h"

constexpr std::size_t MAX_BLOCK_SIZE = 256;

constexpr std::int32_t FLIP = static_cast<std::int32_t>(0x80808080);

AURORA_INLINE Ints weight_codes(const std::uint8_t* from) {
    const Ints codes = load_ints(from);
    return OFFSET ? codes : codes ^ FLIP;
}

// The largest magnitude of n floats; NaN if one of them is not finite.
AURORA_INLINE float peak_of(const float* x, std::size_t n) {
    Floats peak = {}, zero = {};
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Floats v = load(x + i);
        peak = larger(absolute(v), peak);
        zero += v * 0.0f;  // NaN from now on if v is not finite
    }
    float result = largest(peak), rest = sum(zero);
    for (; i < n; ++i) {
        const float magnitude = std::fabs(x[i]);
        result = magnitude > result ? magnitude : result;
        rest += x[i] * 0.0f;
    }
    return result + rest;
}

// codes = round(x * inverse), four to a lane, for `n` floats; returns their sum. Past n the codes are 0.
AURORA_INLINE std::int32_t encode(const float* x, std::size_t n, std::size_t block_size, float inverse,
                                  std::int8_t* codes) {
    std::size_t i = 0;
    Ints total = {};
    for (; i + LANES <= n; i += LANES) {
        const Ints rounded = __builtin_convertvector(round_to_int(load(x + i) * inverse), Ints);
        total += rounded;
        typedef std::int8_t Bytes __attribute__((vector_size(LANES)));
        const Bytes bytes = __builtin_convertvector(rounded, Bytes);
        std::memcpy(codes + i, &bytes, sizeof bytes);
    }
    std::int32_t result = sum(total);
    for (; i < n; ++i) {
        codes[i] = static_cast<std::int8_t>(std::nearbyint(x[i] * inverse));
        result += codes[i];
    }
    if (n < block_size) std::memset(codes + n, 0, block_size - n);
    return result;
}

struct Rounded {
    float scale;
    std::int32_t offset;
};

// One block of a row to 8 bits; inputs past n count as 0. `offset`: by how much the weights' codes are larger than they.
AURORA_INLINE Rounded round_block(const float* x, std::size_t n, std::size_t block_size, std::int8_t* codes,
                                  std::int32_t offset = OFFSET) {
    const float peak = peak_of(x, n);
    if (peak != peak) {  // a NaN is kept in the scale alone
        std::memset(codes, 0, block_size);
        return {peak, 0};
    }
    // Under the smallest normal number the inverse would not be finite.
    const bool is_number = peak >= 1e-30f;
    const std::int32_t total = encode(x, n, block_size, is_number ? 127.0f / peak : 0.0f, codes);
    return {is_number ? peak / 127.0f : 0.0f, -offset * total};
}
