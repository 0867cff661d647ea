// What stands between the linear layers of an RWKV-6 block, on a CPU and raw memory; see README.md. Float32, contiguous.
#pragma once

#include "../cpu/levels.h"
#include "../cpu/parallel.h"

namespace aurora {

struct Tokens {
    std::size_t n_sequences, n_tokens, width;
    std::size_t n_rows() const { return n_sequences * n_tokens; }
};

constexpr std::size_t N_MIXES = 5;

// A matrix (n_inputs, n_outputs), of floats, or of codes with a scale for each output.
struct Matrix {
    const float* floats;
    const std::int8_t* codes;
    const float* scales;
};

// `aurora::TimeMixInputs6` and `aurora::TimeMixInputs6Int8`. Shapes: x (B, T, E), shift (B, E), vectors (E), mix_in (E, 5 m), mix_out five of (m, E),
// decay_in (E, d), decay_out (d, E). Outputs (B, T, E), and next_shift (B, E).
struct TimeMix {
    const float *x, *shift;
    const float *norm_weight, *norm_bias;
    float epsilon;
    const float* mix_x;
    const float* mixes[N_MIXES];  // decay, key, value, receptance, gate: the order of mix_in and mix_out
    std::size_t mix_rank, decay_rank;
    const float* decay;
    Matrix mix_in, mix_out[N_MIXES], decay_in, decay_out;
    float* mixed[N_MIXES];  // of these, `mixed[0]` is not an output, and null
    float *log_decay, *next_shift;
};
void time_mix_inputs(const Kernels& kernels, const Tokens& tokens, const TimeMix& mix, const Parallel& parallel);

// `aurora::ChannelMixInputs6`: sum = x + update, normed, shifted, mixed twice.
struct ChannelMix {
    const float *x, *update, *shift;
    const float *norm_weight, *norm_bias;
    float epsilon;
    const float *mix_key, *mix_receptance;
    float *sum, *key, *receptance, *next_shift;
};
void channel_mix_inputs(const Kernels& kernels, const Tokens& tokens, const ChannelMix& mix, const Parallel& parallel);

// `aurora::HeadNormGate6`: the norm of each head, times weight plus bias, times silu(gate). tokens.width = heads * size.
void head_norm_gate(const Kernels& kernels, const Tokens& tokens, std::size_t head_size, const float* y, const float* gate,
                    const float* weight, const float* bias, float epsilon, float* out, const Parallel& parallel);

// `aurora::ReluSquare`, and `aurora::ChannelMixOutput6`: x + sigmoid(receptance) * value. Of n numbers.
void relu_square(const Kernels& kernels, const float* x, std::size_t n, float* y, const Parallel& parallel);
void channel_mix_output(const Kernels& kernels, const float* x, const float* receptance, const float* value, std::size_t n,
                        float* y, const Parallel& parallel);

}  // namespace aurora
