// The kernels that are compiled once per instruction set, as one table for each, and the choice at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aurora {

constexpr std::size_t MAX_TILE_ROWS = 14;
constexpr std::size_t MAX_PANEL_COLUMNS = 32;

// One head of one sequence. All pointers are to float32, and may have any alignment.
// `row_stride` is the distance between two tokens of the same head, in floats.
struct WkvHead {
    std::size_t n_tokens, size, row_stride;
    const float *receptance, *key, *value, *log_decay;
    const float* bonus;                    // RWKV-6: (size)
    const float *removal, *replacement;    // RWKV-7
    const float* state;                    // (size, size), [key, value]
    float* next_state;                     // may be `state`
    float* output;
};

// Activations of up to MAX_TILE_ROWS rows, in codes: x = codes * scale, one scale per row and block.
//   codes    [block][quad][row][4]: what one product step reads lies together
//   scales   [block][row];  offsets [block][row]: what the weights' offset of 128 adds to a product, to be taken off
struct TileRows {
    std::size_t n_rows, n_blocks, block_size;
    std::int8_t* codes;
    float* scales;
    std::int32_t* offsets;
};

// Activations of one row, in codes, as they meet weights of `bits` bits. A vector is one of the level, of weights.
struct RowCodes {
    std::size_t bits, n_blocks, block_size;
    std::int8_t* codes;     // whole vectors, 0 past the last block; at 4 bits, the even ones of each vector, then the odd
    float* scales;          // (n_blocks); where a vector holds several blocks, one for each lane of each vector
    std::int32_t* offsets;  // the same; what the weights' offset adds to a product, in the first lane of each block
};
constexpr std::size_t MAX_VECTOR_LANES = 16, MAX_VECTOR_CODES = 128;

struct Kernels {
    const char* name;
    bool (*is_supported)();
    std::size_t tile_rows, panel_columns;

    void (*wkv6)(const WkvHead&);
    void (*wkv7)(const WkvHead&);

    // Round rows of x, (n_rows, n_inputs), to 8 bits by blocks; inputs past n_inputs count as 0.
    void (*quantize)(const float* x, std::size_t n_inputs, std::size_t row_stride, const TileRows& rows);
    // The same of a single row, in the order of `multiply_row`.
    void (*prepare_row)(const float* x, std::size_t n_inputs, const RowCodes& row);
    // y[n] for n < n_outputs from one row of activations; `weights` (n_outputs, blocks, bytes of a block) as in the file.
    void (*multiply_row)(const RowCodes& row, const std::uint8_t* weights, const float* weight_scales,
                         std::size_t n_outputs, float* y);
    // Weights of 4 bits, two in each byte, to codes of 8 bits: 128 + weight.
    void (*expand_codes)(const std::uint8_t* from, std::size_t n_bytes, std::uint8_t* to);
    // Bring `n_blocks` blocks of up to `panel_columns` rows of weights into the order of `multiply_tile`:
    // panel [block][quad][column][4], panel_scales [block][column]; columns past n_columns are 0.
    void (*pack_panel)(const std::uint8_t* weights, const float* weight_scales, std::size_t n_columns,
                       std::size_t n_blocks, std::size_t block_size, std::size_t row_bytes, std::size_t row_blocks,
                       std::uint8_t* panel, float* panel_scales);
    // y (n_rows, n_columns) += rows * panel, or = if `is_first`.
    void (*multiply_tile)(const TileRows& rows, const std::uint8_t* panel, const float* panel_scales,
                          std::size_t n_columns, bool is_first, float* y, std::size_t y_stride);

    // What stands between the layers of a block: see mix/mix_kernels.h.
    void (*norm_row)(const float* x, const float* update, std::size_t n, const float* weight, const float* bias,
                     float epsilon, float* kept, float* z);
    void (*mix_row)(const float* z, const float* previous, const float* mix, const float* extra, std::size_t n, float* out);
    void (*tanh_row)(float* x, std::size_t n);
    void (*decay_row)(const float* base, const float* extra, std::size_t n, float* log_decay);
    void (*squared_relu)(const float* x, std::size_t n, float* y);
    void (*sigmoid_gate)(const float* x, const float* receptance, const float* value, std::size_t n, float* y);
    void (*head_norm_gate_row)(const float* y, const float* gate, const float* weight, const float* bias,
                               std::size_t n_heads, std::size_t head_size, float epsilon, float* out);
    void (*multiply_floats)(const float* x, std::size_t x_stride, std::size_t n_rows, const float* weights,
                            std::size_t weight_stride, std::size_t n_inputs, std::size_t n_outputs, float* y,
                            std::size_t y_stride);
    void (*multiply_codes)(const float* x, std::size_t x_stride, std::size_t n_rows, const std::int8_t* codes,
                           const float* scales, std::size_t code_stride, std::size_t n_inputs, std::size_t n_outputs,
                           float* y, std::size_t y_stride);
};

// All levels that this library was compiled with, the best first. Not all of them run on every machine.
const Kernels* const* all_levels(std::size_t* n);

// The best level that runs here, or the one that the environment variable AURORA_CPU_LEVEL names; nullptr, and the
// reason in `error`, if there is none of that name or the machine lacks it.
const Kernels* choose_level(const char** error);

}  // namespace aurora
