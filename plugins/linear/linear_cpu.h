// A linear layer of weights of 8 or 4 bits on a CPU: the operator `aurora::BlockLinear` on raw memory.
#pragma once

#include "../cpu/levels.h"
#include "../cpu/parallel.h"

namespace aurora {

// Weights as in the file, which is all there is of them: rows of whole blocks, codes 128 + weight / scale, or 8 + that, two
// in a byte, the first in its low half.
struct BlockWeights {
    std::size_t n_outputs, n_inputs, block_size;  // block_size: 16, 32, 64, 128 or 256
    const std::uint8_t* codes;                    // (n_outputs, blocks, block_bytes)
    const float* scales;                          // (n_outputs, blocks)
    std::size_t bits = 8;

    std::size_t n_blocks() const { return (n_inputs + block_size - 1) / block_size; }
    std::size_t block_bytes() const { return block_size * bits / 8; }
    std::size_t row_bytes() const { return n_blocks() * block_bytes(); }
};

// What is added to a product: bias (n_outputs), and residual (n_rows, n_outputs). Each may be null.
struct Added {
    const float *bias = nullptr, *residual = nullptr;
};

// y (n_rows, n_outputs) = x (n_rows, n_inputs) times the weights, plus `added`. x is rounded to 8 bits by rows and blocks.
// One row is a walk along the weights as they lie: the memory is the limit. More rows are tiles of products, for which
// the activations are brought into order once, and weights are read as they lie.
void linear(const Kernels& kernels, const BlockWeights& weights, const float* x, std::size_t n_rows, const Added& added,
            float* y, const Parallel& parallel);

// Two layers and the activation between them: y = activation(x W1 + bias) W2 + added. What lies between the layers exists
// as codes alone. first.n_outputs = second.n_inputs; `bias` (first.n_outputs) may be null.
struct BlockMlp {
    BlockWeights first, second;
    const float* bias;
    Activation activation;
};
void mlp(const Kernels& kernels, const BlockMlp& layers, const float* x, std::size_t n_rows, const Added& added, float* y,
         const Parallel& parallel);

}  // namespace aurora
