#include "mix_cpu.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace aurora {
namespace {

// Tokens that one thread takes through all steps: few enough to be shared well, many enough to use a weight often.
std::size_t rows_at_once(std::size_t n_rows) { return n_rows < 256 ? 16 : 32; }

// Of a single token, which all threads take together, step by step.
constexpr std::size_t COLUMNS_AT_ONCE = 512, INPUTS_AT_ONCE = 256;

// Of functions that only walk over numbers.
constexpr std::size_t NUMBERS_AT_ONCE = 16384;

// Some rows of all tokens. A row is a token of a sequence; before the first of each sequence comes its shift.
struct Rows {
    std::size_t first, n;
};

template <typename Work>
void in_chunks(std::size_t n_rows, const Parallel& parallel, const Work& work) {
    const std::size_t at_once = rows_at_once(n_rows), n_chunks = (n_rows + at_once - 1) / at_once;
    parallel(n_chunks, [&](std::size_t i) {
        const std::size_t first = i * n_rows / n_chunks;
        work(Rows{first, (i + 1) * n_rows / n_chunks - first});
    });
}

// Scratch of a thread, kept from one call to the next.
float* scratch(std::size_t n) {
    thread_local std::vector<float> memory;
    if (memory.size() < n) memory.resize(n);
    return memory.data();
}

// The normed rows of a chunk and, `width` floats before each row, what came before it: z has n + 1 rows, of which row 0
// belongs to the token before the chunk. Where a sequence begins, `previous` is its shift instead.
class Shifted {
public:
    template <typename Norm>
    Shifted(const Tokens& tokens, const Rows& rows, const float* shift, float* z, const Norm& norm)
        : tokens_(tokens), rows_(rows), shift_(shift), z_(z) {
        if (rows.first % tokens.n_tokens != 0) norm(rows.first - 1, z);
        for (std::size_t i = 0; i < rows.n; ++i) norm(rows.first + i, z + (i + 1) * tokens.width);
    }

    const float* row(std::size_t i) const { return z_ + (i + 1) * tokens_.width; }

    const float* previous(std::size_t i) const {
        const std::size_t at = rows_.first + i;
        return at % tokens_.n_tokens == 0 ? shift_ + at / tokens_.n_tokens * tokens_.width : z_ + i * tokens_.width;
    }

    // The last token of each sequence that ends in these rows.
    void keep_last(float* next_shift) const {
        for (std::size_t i = 0; i < rows_.n; ++i) {
            const std::size_t after = rows_.first + i + 1;
            if (after % tokens_.n_tokens == 0)
                std::memcpy(next_shift + (after / tokens_.n_tokens - 1) * tokens_.width, row(i), tokens_.width * sizeof(float));
        }
    }

private:
    const Tokens& tokens_;
    const Rows rows_;
    const float* shift_;
    float* z_;
};

// y (n_rows, n) = x (n_rows, n_inputs) times `n` of the columns of some inputs of a matrix that is `width` wide.
struct Part {
    std::size_t first_input, n_inputs, first_column, n;
};
void multiply(const Kernels& kernels, const float* x, std::size_t x_stride, std::size_t n_rows, const Matrix& matrix,
              std::size_t width, const Part& part, float* y, std::size_t y_stride) {
    const std::size_t at = part.first_input * width + part.first_column;
    if (matrix.codes != nullptr)
        kernels.multiply_codes(x, x_stride, n_rows, matrix.codes + at, matrix.scales + part.first_column, width,
                               part.n_inputs, part.n, y, y_stride);
    else
        kernels.multiply_floats(x, x_stride, n_rows, matrix.floats + at, width, part.n_inputs, part.n, y, y_stride);
}

// y = x W of a single row, or of some rows on the thread that asks. A single row is shared by inputs: the weights are
// then read as they lie. Sums are added in the order of the inputs, whoever made them.
void narrow_product(const Kernels& kernels, const float* x, std::size_t n_rows, const Matrix& weights, std::size_t n_inputs,
                    std::size_t n_outputs, float* partial, float* y, const Parallel& parallel) {
    if (n_rows > 1) {
        multiply(kernels, x, n_inputs, n_rows, weights, n_outputs, {0, n_inputs, 0, n_outputs}, y, n_outputs);
        return;
    }
    const std::size_t n_parts = (n_inputs + INPUTS_AT_ONCE - 1) / INPUTS_AT_ONCE;
    parallel(n_parts, [&](std::size_t i) {
        const std::size_t first = i * INPUTS_AT_ONCE, n = std::min(INPUTS_AT_ONCE, n_inputs - first);
        multiply(kernels, x + first, n, 1, weights, n_outputs, {first, n, 0, n_outputs}, partial + i * n_outputs, n_outputs);
    });
    std::fill(y, y + n_outputs, 0.0f);
    for (std::size_t i = 0; i < n_parts; ++i)
        for (std::size_t j = 0; j < n_outputs; ++j) y[j] += partial[i * n_outputs + j];
}

// The columns of some rows, strip by strip: shared by threads if there is one row.
template <typename Work>
void in_strips(std::size_t n_columns, const Parallel& parallel, const Work& work) {
    parallel((n_columns + COLUMNS_AT_ONCE - 1) / COLUMNS_AT_ONCE, [&](std::size_t i) {
        const std::size_t first = i * COLUMNS_AT_ONCE;
        work(first, std::min(COLUMNS_AT_ONCE, n_columns - first));
    });
}

void time_mix_rows(const Kernels& kernels, const Tokens& tokens, const TimeMix& mix, const Rows& rows,
                   const Parallel& parallel) {
    const std::size_t E = tokens.width, n = rows.n, n_hidden = N_MIXES * mix.mix_rank;
    const std::size_t n_parts = n > 1 ? 0 : (E + INPUTS_AT_ONCE - 1) / INPUTS_AT_ONCE;
    float* z = scratch((n + 1) * E + 2 * n * E + n * (n_hidden + mix.decay_rank) +
                       n_parts * std::max(n_hidden, mix.decay_rank));
    float* mixed = z + (n + 1) * E;  // the input of the first product, then that of the decay
    float* extra = mixed + n * E;
    float* hidden = extra + n * E;
    float* decay_hidden = hidden + n * n_hidden;
    float* partial = decay_hidden + n * mix.decay_rank;
    const Shifted shifted(tokens, rows, mix.shift, z, [&](std::size_t row, float* to) {
        kernels.norm_row(mix.x + row * E, nullptr, E, mix.norm_weight, mix.norm_bias, mix.epsilon, nullptr, to);
    });
    shifted.keep_last(mix.next_shift);
    for (std::size_t i = 0; i < n; ++i)
        kernels.mix_row(shifted.row(i), shifted.previous(i), mix.mix_x, nullptr, E, mixed + i * E);
    narrow_product(kernels, mixed, n, mix.mix_in, E, n_hidden, partial, hidden, parallel);
    kernels.tanh_row(hidden, n * n_hidden);
    in_strips(E, parallel, [&](std::size_t first, std::size_t n_columns) {
        for (std::size_t j = 0; j < N_MIXES; ++j) {
            multiply(kernels, hidden + j * mix.mix_rank, n_hidden, n, mix.mix_out[j], E, {0, mix.mix_rank, first, n_columns},
                     extra + first, E);
            for (std::size_t i = 0; i < n; ++i) {
                float* to = (mix.mixed[j] == nullptr ? mixed + i * E : mix.mixed[j] + (rows.first + i) * E) + first;
                kernels.mix_row(shifted.row(i) + first, shifted.previous(i) + first, mix.mixes[j] + first,
                                extra + i * E + first, n_columns, to);
            }
        }
    });
    narrow_product(kernels, mixed, n, mix.decay_in, E, mix.decay_rank, partial, decay_hidden, parallel);
    kernels.tanh_row(decay_hidden, n * mix.decay_rank);
    in_strips(E, parallel, [&](std::size_t first, std::size_t n_columns) {
        multiply(kernels, decay_hidden, mix.decay_rank, n, mix.decay_out, E, {0, mix.decay_rank, first, n_columns},
                 extra + first, E);
        for (std::size_t i = 0; i < n; ++i)
            kernels.decay_row(mix.decay + first, extra + i * E + first, n_columns, mix.log_decay + (rows.first + i) * E + first);
    });
}

}  // namespace

void time_mix_inputs(const Kernels& kernels, const Tokens& tokens, const TimeMix& mix, const Parallel& parallel) {
    if (tokens.n_rows() == 1)
        time_mix_rows(kernels, tokens, mix, {0, 1}, parallel);
    else
        in_chunks(tokens.n_rows(), parallel,
                  [&](const Rows& rows) { time_mix_rows(kernels, tokens, mix, rows, one_thread()); });
}

void channel_mix_inputs(const Kernels& kernels, const Tokens& tokens, const ChannelMix& mix, const Parallel& parallel) {
    const std::size_t E = tokens.width;
    in_chunks(tokens.n_rows(), parallel, [&](const Rows& rows) {
        float* z = scratch((rows.n + 2) * E);
        float* elsewhere = z + (rows.n + 1) * E;  // the sum of the row before the chunk is somebody else's output
        const Shifted shifted(tokens, rows, mix.shift, z, [&](std::size_t row, float* to) {
            float* kept = row < rows.first ? elsewhere : mix.sum + row * E;
            kernels.norm_row(mix.x + row * E, mix.update + row * E, E, mix.norm_weight, mix.norm_bias, mix.epsilon, kept, to);
        });
        shifted.keep_last(mix.next_shift);
        for (std::size_t i = 0; i < rows.n; ++i) {
            const std::size_t at = (rows.first + i) * E;
            kernels.mix_row(shifted.row(i), shifted.previous(i), mix.mix_key, nullptr, E, mix.key + at);
            kernels.mix_row(shifted.row(i), shifted.previous(i), mix.mix_receptance, nullptr, E, mix.receptance + at);
        }
    });
}

void head_norm_gate(const Kernels& kernels, const Tokens& tokens, std::size_t head_size, const float* y, const float* gate,
                    const float* weight, const float* bias, float epsilon, float* out, const Parallel& parallel) {
    in_chunks(tokens.n_rows(), parallel, [&](const Rows& rows) {
        for (std::size_t row = rows.first; row < rows.first + rows.n; ++row) {
            const std::size_t at = row * tokens.width;
            kernels.head_norm_gate_row(y + at, gate + at, weight, bias, tokens.width / head_size, head_size, epsilon, out + at);
        }
    });
}

void relu_square(const Kernels& kernels, const float* x, std::size_t n, float* y, const Parallel& parallel) {
    parallel((n + NUMBERS_AT_ONCE - 1) / NUMBERS_AT_ONCE, [&](std::size_t i) {
        const std::size_t first = i * NUMBERS_AT_ONCE;
        kernels.squared_relu(x + first, std::min(NUMBERS_AT_ONCE, n - first), y + first);
    });
}

void channel_mix_output(const Kernels& kernels, const float* x, const float* receptance, const float* value, std::size_t n,
                        float* y, const Parallel& parallel) {
    parallel((n + NUMBERS_AT_ONCE - 1) / NUMBERS_AT_ONCE, [&](std::size_t i) {
        const std::size_t first = i * NUMBERS_AT_ONCE;
        kernels.sigmoid_gate(x + first, receptance + first, value + first, std::min(NUMBERS_AT_ONCE, n - first), y + first);
    });
}

}  // namespace aurora
