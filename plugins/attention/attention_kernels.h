// What attention needs beside the products of linear/panel_kernels.h. Included once per level, after it.
// Scores stand as (keys, width): a lane is a query, so that nothing is ever added across lanes.
#pragma once

#include "../cpu/levels.h"

constexpr float LOG2_E = 1.44269504f, LOG2_127 = 6.98868469f;

// A row of floats as weights: codes as in a strip, and their scale.
static float round_to_weights(const float* x, std::size_t n, std::size_t block_size, std::uint8_t* codes) {
    alignas(64) std::int8_t rounded[MAX_BLOCK_SIZE];
    const float scale = round_block(x, n, block_size, rounded).scale;
    for (std::size_t i = 0; i < block_size; ++i)
        codes[i] = static_cast<std::uint8_t>(rounded[i] + (OFFSET ? 128 : 0));
    return scale;
}

// out = (x + bias) * scale
static void add_and_scale(const float* x, const float* bias, float scale, std::size_t n, float* out) {
    std::size_t i = 0;
    for (; i + LANES <= n; i += LANES) store(out + i, (load(x + i) + load(bias + i)) * scale);
    for (; i < n; ++i) out[i] = (x[i] + bias[i]) * scale;
}

// out = mean of n_heads pieces of x + bias, each of `size`
static void mean_of_heads(const float* x, const float* bias, std::size_t n_heads, std::size_t size, float* out) {
    const float share = 1.0f / static_cast<float>(n_heads);
    std::memset(out, 0, size * sizeof(float));
    for (std::size_t head = 0; head < n_heads; ++head, x += size, bias += size) {
        std::size_t i = 0;
        for (; i + LANES <= size; i += LANES) store(out + i, load(out + i) + (load(x + i) + load(bias + i)));
        for (; i < size; ++i) out[i] += x[i] + bias[i];
    }
    for (std::size_t i = 0; i < size; ++i) out[i] *= share;
}

// 2^x for x that is not over 7, within 3 millionths; under -125 about as small as numbers are. NaN stays.
AURORA_INLINE Floats power_of_two(Floats x) {
    const Floats low = splat(-125.0f);
    const Floats inside = low > x ? low : x;
    const float magic = 12582912.0f + 127;  // 1.5 * 2^23 puts the integer into the low bits, 127 makes it an exponent
    const Floats whole = inside + magic;
    const Floats rest = inside - (whole - magic);
    Floats p = splat(9.57008172e-3f);  // the best of its degree from -1/2 to 1/2
    p = p * rest + 5.59178591e-2f;
    p = p * rest + 2.40247458e-1f;
    p = p * rest + 6.93121791e-1f;
    p = p * rest + 9.99999285e-1f;
    return p * as_floats(as_ints(whole) << 23);
}

// The codes of n keys, at most four, of each lane; `total` grows by what they stand for before they are rounded.
AURORA_INLINE Ints quad_of_codes(const float* scores, std::size_t stride, std::size_t n, Floats offset, Floats& total) {
    const float magic = 12582912.0f;  // its bits are 0x4b400000, to which the code is added; shifted by 16 they are gone
    Ints bytes = {};
    AURORA_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
        if (i >= n) continue;
        const Floats share = power_of_two(load(scores + i * stride) * LOG2_E + offset);
        total += share;
        bytes += (as_ints(share + magic) - (i < 2 ? 0x4b400000 : 0)) << static_cast<int>(8 * i);
    }
    return bytes;
}

// Softmax over the keys of scores (n_keys, width) to the codes of a panel. The largest score of a block has code 127, so
// that codes are powers that need no further scale, and scores are read twice in all.
static void softmax_panel(const float* scores, std::size_t n_keys, const Panel& panel) {
    const std::size_t width = panel.width, block_size = panel.block_size;
    for (std::size_t first = 0; first < width; first += LANES) {
        const float* column = scores + first;
        float* scales = panel.scales + first;
        Floats peak = load(column), total = {};
        for (std::size_t block = 0; block < panel.n_blocks; ++block) {
            const std::size_t begin = block * block_size, end = begin + block_size < n_keys ? begin + block_size : n_keys;
            Floats top = load(column + begin * width);
            for (std::size_t key = begin + 1; key < end; ++key) top = larger(load(column + key * width), top);
            store(scales + block * width, top);
            peak = larger(top, peak);
        }
        for (std::size_t block = 0; block < panel.n_blocks; ++block) {
            const std::size_t begin = block * block_size, end = begin + block_size < n_keys ? begin + block_size : n_keys;
            const Floats top = load(scales + block * width), offset = LOG2_127 - top * LOG2_E;
            Floats total_of_block = {};
            Ints codes_total = {};
            for (std::size_t key = begin; key < begin + block_size; key += 4) {
                const float* quad = column + key * width;
                const Ints bytes = key + 4 <= end ? quad_of_codes(quad, width, 4, offset, total_of_block)
                                   : key < end    ? quad_of_codes(quad, width, end - key, offset, total_of_block)
                                                  : Ints{};
                codes_total = dot4(codes_total, splat_int(0x01010101), bytes);
                store_ints(panel.codes + key * width + first * 4, bytes);
            }
            const Floats share = exponential(top - peak);
            total += total_of_block * share;
            store(scales + block * width, share);
            store_ints(panel.offsets + block * width + first, codes_total * -OFFSET);
        }
        // A NaN among the scores has reached the total, and so every output of its query.
        for (std::size_t block = 0; block < panel.n_blocks; ++block)
            store(scales + block * width, load(scales + block * width) / total);
    }
}
