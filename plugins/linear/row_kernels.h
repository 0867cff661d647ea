// Products of one row of 8-bit activations and weights of 8 or 4 bits, which are read as they lie in the file. Included
// once per level, after linear_kernels.h.
//
// A vector of weights holds VECTOR_BYTES of them at 8 bits, and twice as many at 4: `dot8` takes the low halves of its
// bytes, which are the even weights, and the high ones. So the activations of each vector are put in that order before.
// A lane never has weights of two blocks. Where blocks are smaller than a vector, each lane has the scale of its block.
#pragma once

#include "../cpu/levels.h"

// How far ahead of the product weights are asked for: further than the prefetchers of the hardware dare.
constexpr std::size_t PREFETCH_BYTES = 4096;

constexpr std::int32_t ZERO_CODE_OF_4_BITS = 8;

AURORA_INLINE std::size_t block_bytes(const RowCodes& row) { return row.block_size * row.bits / 8; }

// In each pair of vectors, the even codes come first, then the odd ones. In place.
AURORA_INLINE void split_pairs(std::int8_t* codes, std::size_t n) {
    typedef std::int16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));
    typedef std::int8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 2)));
    for (std::size_t i = 0; i < n; i += 2 * VECTOR_BYTES) {
        const Shorts first = (Shorts)load_ints(codes + i), second = (Shorts)load_ints(codes + i + VECTOR_BYTES);
        const Bytes parts[] = {
            __builtin_convertvector(first, Bytes), __builtin_convertvector(second, Bytes),
            __builtin_convertvector(first >> 8, Bytes), __builtin_convertvector(second >> 8, Bytes)};
        std::memcpy(codes + i, parts, sizeof parts);
    }
}

static void prepare_row(const float* x, std::size_t n_inputs, const RowCodes& row) {
    for (std::size_t block = 0; block < row.n_blocks; ++block) {
        const std::size_t begin = block * row.block_size;
        const std::size_t n = n_inputs - begin < row.block_size ? n_inputs - begin : row.block_size;
        const Rounded rounded =
            round_block(x + begin, n, row.block_size, row.codes + begin, row.bits == 4 ? ZERO_CODE_OF_4_BITS : OFFSET);
        row.scales[block] = rounded.scale;
        row.offsets[block] = rounded.offset;
    }
    const std::size_t n_codes = row.n_blocks * row.block_size, codes_of_vector = VECTOR_BYTES * 8 / row.bits;
    const std::size_t n_vectors = (n_codes + codes_of_vector - 1) / codes_of_vector;
    std::memset(row.codes + n_codes, 0, n_vectors * codes_of_vector - n_codes);
    if (row.bits == 4) split_pairs(row.codes, n_vectors * codes_of_vector);
    const std::size_t lanes = block_bytes(row) / 4;
    if (lanes >= LANES) return;
    for (std::size_t block = row.n_blocks; block-- > 0;) {  // from the end, for the scales of lanes lie over those of blocks
        const float scale = row.scales[block];
        const std::int32_t offset = row.offsets[block];
        for (std::size_t lane = block * lanes; lane < (block + 1) * lanes; ++lane) row.scales[lane] = scale, row.offsets[lane] = 0;
        row.offsets[block * lanes] = offset;
    }
    for (std::size_t lane = row.n_blocks * lanes; lane < n_vectors * LANES; ++lane) row.scales[lane] = 0, row.offsets[lane] = 0;
}

template <std::size_t Bits>
AURORA_INLINE Ints vector_product(Ints sums, const std::uint8_t* weights, const std::int8_t* codes) {
    if constexpr (Bits == 4)
        return dot8(sums, load_ints(weights), load_ints(codes), load_ints(codes + VECTOR_BYTES));
    else
        return dot4(sums, weight_codes(weights), load_ints(codes));
}

// One output, of blocks that are whole vectors. Rows are read one after the other, as they lie: several at a time read
// slower, because the memory likes one long stream best, and there is time enough for the sum at the end of each row.
template <std::size_t Bits>
AURORA_INLINE float multiply_wide(const RowCodes& row, const std::uint8_t* weights, const float* weight_scales) {
    const std::size_t n_bytes = block_bytes(row);
    const std::int8_t* codes = row.codes;
    Floats total = {};
    for (std::size_t block = 0; block < row.n_blocks; ++block) {
        Ints sums = {row.offsets[block]};
        for (std::size_t i = 0; i < n_bytes; i += VECTOR_BYTES, weights += VECTOR_BYTES, codes += VECTOR_BYTES * 8 / Bits) {
            if (VECTOR_BYTES == 64 || i % 64 == 0) __builtin_prefetch(weights + PREFETCH_BYTES);
            sums = vector_product<Bits>(sums, weights, codes);
        }
        total += to_floats(sums) * (weight_scales[block] * row.scales[block]);
    }
    return sum(total);
}

template <std::size_t N>
struct Count {};

// The scales of two blocks, side by side in all pairs of lanes.
AURORA_INLINE Floats pair(const float* from) {
    std::int64_t both;
    std::memcpy(&both, from, sizeof both);
    return (Floats)(both - Longs{});
}

// The scales of N blocks, each in as many lanes as it has. Shuffles of whole vectors: others become loops in GCC.
#if VECTOR_BYTES == 64
AURORA_INLINE Floats spread(const float* from, Count<2>) {
    const Floats two = pair(from);
    return __builtin_shufflevector(two, two, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
}
AURORA_INLINE Floats spread(const float* from, Count<4>) {
    return __builtin_shufflevector(pair(from), pair(from + 2), 0, 0, 0, 0, 1, 1, 1, 1, 16, 16, 16, 16, 17, 17, 17, 17);
}
AURORA_INLINE Floats spread(const float* from, Count<8>) {
    const Floats first = spread(from, Count<4>{}), second = spread(from + 4, Count<4>{});
    return __builtin_shufflevector(first, second, 0, 0, 4, 4, 8, 8, 12, 12, 16, 16, 20, 20, 24, 24, 28, 28);
}
#elif VECTOR_BYTES == 32
AURORA_INLINE Floats spread(const float* from, Count<2>) {
    const Floats two = pair(from);
    return __builtin_shufflevector(two, two, 0, 0, 0, 0, 1, 1, 1, 1);
}
AURORA_INLINE Floats spread(const float* from, Count<4>) {
    return __builtin_shufflevector(pair(from), pair(from + 2), 0, 0, 1, 1, 8, 8, 9, 9);
}
#else
AURORA_INLINE Floats spread(const float* from, Count<2>) {
    const Floats two = pair(from);
    return __builtin_shufflevector(two, two, 0, 0, 1, 1);
}
#endif

// One output, of blocks of which a vector holds several. The last vector may be filled up with nothing.
template <std::size_t Bits, std::size_t Blocks>
AURORA_INLINE float multiply_narrow(const RowCodes& row, const std::uint8_t* weights, const float* weight_scales) {
    const std::int8_t* codes = row.codes;
    const float* scales = row.scales;
    const std::int32_t* offsets = row.offsets;
    Floats total = {};
    std::size_t block = 0;
    for (; block + Blocks <= row.n_blocks; block += Blocks) {
        __builtin_prefetch(weights + PREFETCH_BYTES);
        const Ints sums = vector_product<Bits>(load_ints(offsets), weights, codes);
        total += to_floats(sums) * (spread(weight_scales + block, Count<Blocks>{}) * load(scales));
        weights += VECTOR_BYTES, codes += VECTOR_BYTES * 8 / Bits, scales += LANES, offsets += LANES;
    }
    if (block < row.n_blocks) {
        std::uint8_t rest[VECTOR_BYTES] = {};
        float rest_scales[Blocks] = {};
        std::memcpy(rest, weights, (row.n_blocks - block) * (VECTOR_BYTES / Blocks));
        std::memcpy(rest_scales, weight_scales + block, (row.n_blocks - block) * sizeof(float));
        const Ints sums = vector_product<Bits>(load_ints(offsets), rest, codes);
        total += to_floats(sums) * (spread(rest_scales, Count<Blocks>{}) * load(scales));
    }
    return sum(total);
}

template <std::size_t Bits>
AURORA_INLINE void multiply_row_of(const RowCodes& row, const std::uint8_t* weights, const float* weight_scales,
                                   std::size_t n_outputs, float* y) {
    const std::size_t n_bytes = block_bytes(row), row_bytes = row.n_blocks * n_bytes, n_blocks = row.n_blocks;
    const auto each = [&](auto multiply) __attribute__((always_inline)) {
        for (std::size_t n = 0; n < n_outputs; ++n) y[n] = multiply(row, weights + n * row_bytes, weight_scales + n * n_blocks);
    };
    if (n_bytes >= VECTOR_BYTES) return each(multiply_wide<Bits>);
    if constexpr (VECTOR_BYTES >= 16)
        if (n_bytes == VECTOR_BYTES / 2) return each(multiply_narrow<Bits, 2>);
    if constexpr (VECTOR_BYTES >= 32)
        if (n_bytes == VECTOR_BYTES / 4) return each(multiply_narrow<Bits, 4>);
    if constexpr (VECTOR_BYTES >= 64)
        if (n_bytes == VECTOR_BYTES / 8) return each(multiply_narrow<Bits, 8>);
}

static void multiply_row(const RowCodes& row, const std::uint8_t* weights, const float* weight_scales,
                         std::size_t n_outputs, float* y) {
    if (row.bits == 4)
        multiply_row_of<4>(row, weights, weight_scales, n_outputs, y);
    else
        multiply_row_of<8>(row, weights, weight_scales, n_outputs, y);
}

// Weights of 4 bits as `copy_weights` makes them of 8: two codes for each of `n_bytes`.
static void expand_weights(const std::uint8_t* from, std::size_t n_bytes, std::uint8_t* to) {
    typedef std::uint8_t Bytes __attribute__((vector_size(VECTOR_BYTES / 2)));
    typedef std::uint16_t Shorts __attribute__((vector_size(VECTOR_BYTES)));
    constexpr unsigned ADDED = 128 - ZERO_CODE_OF_4_BITS, FLIPPED = OFFSET ? 0 : 0x80;
    std::size_t i = 0;
    for (; i + sizeof(Bytes) <= n_bytes; i += sizeof(Bytes)) {
        Bytes bytes;
        std::memcpy(&bytes, from + i, sizeof bytes);
        const Shorts pairs = __builtin_convertvector(bytes, Shorts);
        const Shorts codes = (((pairs | pairs << 4) & 0x0f0f) + ADDED * 0x101) ^ FLIPPED * 0x101;
        std::memcpy(to + 2 * i, &codes, sizeof codes);
    }
    for (; i < n_bytes; ++i) {
        to[2 * i] = static_cast<std::uint8_t>(((from[i] & 15) + ADDED) ^ FLIPPED);
        to[2 * i + 1] = static_cast<std::uint8_t>(((from[i] >> 4) + ADDED) ^ FLIPPED);
    }
}
