// The kernels that are compiled once per instruction set, as one table for each, and the choice at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace aurora {

constexpr std::size_t MAX_PANEL_ROWS = 32;

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

// Activations of one row, in codes: x = codes * scale, as they meet weights of `bits` bits, a vector of the level at a time.
struct RowCodes {
    std::size_t bits, n_blocks, block_size;
    std::int8_t* codes;     // for whole vectors, 0 past the last block; at 4 bits, the even ones of each, then the odd ones
    float* scales;          // (n_blocks); where a vector holds several blocks, one for each lane of each vector
    std::int32_t* offsets;  // the same; what the weights' offset adds to a product, to be taken off, in a block's first lane
};
constexpr std::size_t MAX_VECTOR_LANES = 16, MAX_VECTOR_CODES = 128;

// Activations of `n_rows` rows in codes, filled up with zeros to `width`, which is one or two vectors of the level.
//   codes [block][quad][row][4]: what one product step reads lies together;  scales, offsets [block][row]
struct Panel {
    std::size_t n_rows, width, n_blocks, block_size;
    std::int8_t* codes;
    float* scales;
    std::int32_t* offsets;
};

// Weights that are at work at a time: some outputs by some blocks, in the file, or copied close together.
constexpr std::size_t STRIP_INPUTS = 512, STRIP_OUTPUTS = 128;
constexpr std::size_t WEIGHT_STRIDE = STRIP_INPUTS + 64;  // of copies, so that rows do not fall on each other in the cache
struct WeightStrip {
    std::size_t n_outputs;
    const std::uint8_t* codes;  // rows of n_outputs, `code_stride` bytes apart
    std::size_t code_stride;
    const float* scales;  // [block][STRIP_OUTPUTS]
};

// What comes after a panel and a strip: asked for meanwhile, a few lines of the cache at a time.
struct Next {
    std::size_t n_rows, n_bytes;  // of weights: rows of n_bytes, and a scale of each, which are some way apart
    const std::uint8_t* codes;
    std::size_t code_stride;
    const float* scales;
    std::size_t scale_stride;
    const std::int8_t* panel;  // codes of a panel
    std::size_t panel_bytes;
};

// What stands between the two layers of an MLP: GELU by its tanh form, or the square of the positive part.
enum class Activation { GELU, SQUARED_RELU };

// Tokens that others may merge into, turned: inputs (n_inputs, stride), filled up with zeros to whole vectors.
struct Partners {
    std::size_t n_partners, stride, n_inputs;
    const float* inputs;
};
constexpr float TINY_NORM = 1e-30f;  // of model/merging.py

struct Kernels {
    const char* name;
    bool (*is_supported)();
    std::size_t lanes, panel_rows;  // rows in a vector, and in a panel

    void (*wkv6)(const WkvHead&);
    void (*wkv7)(const WkvHead&);

    // Round a row of x to 8 bits by blocks, in the order of `multiply_row`; inputs past n_inputs count as 0.
    void (*prepare_row)(const float* x, std::size_t n_inputs, const RowCodes& row);
    // y[n] for n < n_outputs from one row of activations; `weights` (n_outputs, blocks, bytes of a block) as in the file.
    void (*multiply_row)(const RowCodes& row, const std::uint8_t* weights, const float* weight_scales,
                         std::size_t n_outputs, float* y);
    // Round the rows of a panel.
    void (*quantize_panel)(const float* x, std::size_t n_inputs, std::size_t row_stride, const Panel& panel);
    // Whether `multiply_panel` takes weights of 8 bits as they are in the file.
    bool takes_stored_weights;
    // Part of a row of weights from the file to a strip: as it is, or as the level's product wants it.
    void (*copy_weights)(const std::uint8_t* from, std::size_t n_bytes, std::uint8_t* to);
    // The same for weights of 4 bits, of which each byte becomes two.
    void (*expand_weights)(const std::uint8_t* from, std::size_t n_bytes, std::uint8_t* to);
    // sums (n_outputs, width) += panel times strip, or = if `is_first`. Meanwhile `next` is brought into the cache.
    void (*multiply_panel)(const Panel& panel, const WeightStrip& strip, bool is_first, float* sums, const Next& next);
    // y (n_rows, n_outputs), of rows `y_stride` apart, from sums (n_outputs, width), plus `bias` (n_outputs), plus
    // `residual`, which lies as y does. Each of the two may be null.
    void (*turn_panel)(const float* sums, const Panel& panel, std::size_t n_outputs, const float* bias, const float* residual,
                       float* y, std::size_t y_stride);
    // The activation of sums (n_outputs, width) plus `bias`, which may be null, to the codes of a panel whose inputs these
    // outputs are. The sums are overwritten.
    void (*activate_panel)(float* sums, std::size_t n_outputs, const float* bias, Activation activation, const Panel& panel);
    // x = activation(x + bias), of one row.
    void (*activate_row)(float* x, std::size_t n, const float* bias, Activation activation);

    // Attention: see attention/attention_kernels.h.
    float (*round_to_weights)(const float* x, std::size_t n, std::size_t block_size, std::uint8_t* codes);
    void (*add_and_scale)(const float* x, const float* bias, float scale, std::size_t n, float* out);
    void (*mean_of_heads)(const float* x, const float* bias, std::size_t n_heads, std::size_t size, float* out);
    void (*softmax_panel)(const float* scores, std::size_t n_keys, const Panel& panel);

    // Merging: see merge/merge_kernels.h.
    void (*normalise_row)(const float* x, std::size_t n, float* out);
    void (*best_partners)(const float* rows, std::size_t n_rows, const Partners& all, float* best, std::int32_t* partner);
    void (*weigh_row)(const float* x, float size, std::size_t n, bool is_first, float* sums);
    void (*average_row)(const float* x, float size, float total, std::size_t n, bool is_weighed, float* out);

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
