// What attention needs beside the products of linear/panel_kernels.h. Included once per level, after it.
// Scores stand as (keys, width): a lane is a query, so that nothing is ever added across lanes.
#pragma once

#include "../cpu/levels.h"

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

// Softmax over the keys of scores (n_keys, width), which are overwritten, to the codes of a panel.
static void softmax_panel(float* scores, std::size_t n_keys, const Panel& panel) {
    const std::size_t width = panel.width, block_size = panel.block_size;
    for (std::size_t first = 0; first < width; first += LANES) {
        float* column = scores + first;
        Floats peak = load(column), total = {};
        for (std::size_t key = 1; key < n_keys; ++key) peak = larger(load(column + key * width), peak);
        for (std::size_t key = 0; key < n_keys; ++key) {
            const Floats share = exponential(load(column + key * width) - peak);
            total += share;
            store(column + key * width, share);
        }
        for (std::size_t block = 0; block < panel.n_blocks; ++block) {
            const std::size_t begin = block * block_size, end = begin + block_size < n_keys ? begin + block_size : n_keys;
            Floats largest_share = splat(1e-30f);
            for (std::size_t key = begin; key < end; ++key) largest_share = larger(load(column + key * width), largest_share);
            const Floats inverse = 127.0f / largest_share;
            Ints codes_total = {};
            for (std::size_t quad = begin; quad < begin + block_size; quad += 4) {
                Ints bytes = {};
                AURORA_UNROLL
                for (std::size_t i = 0; i < 4; ++i) {
                    if (quad + i >= end) continue;
                    const Floats value = round_to_int(load(column + (quad + i) * width) * inverse);
                    const Ints code = __builtin_convertvector(value, Ints);
                    codes_total += code;
                    bytes |= code << static_cast<int>(8 * i);
                }
                store_ints(panel.codes + (quad * width) + first * 4, bytes);
            }
            // A NaN among the scores has reached the total, and so every output of its query.
            store(panel.scales + block * width + first, largest_share / (127.0f * total));
            store_ints(panel.offsets + block * width + first, codes_total * -OFFSET);
        }
    }
}
