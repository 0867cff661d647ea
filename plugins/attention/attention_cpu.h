// Self-attention between the linear layers of a vision block: `aurora::HeadsAttention` on raw memory; see README.md.
#pragma once

#include "../cpu/levels.h"
#include "../cpu/parallel.h"

namespace aurora {

// Contiguous float32. head_size is at most STRIP_OUTPUTS.
struct HeadsAttention {
    std::size_t n_frames, n_tokens, n_heads, head_size;
    float scale;
    const float *query, *key, *value;                 // (n_frames, n_tokens, n_heads * head_size)
    const float *query_bias, *key_bias, *value_bias;  // (n_heads * head_size)
    float* mixed;                                     // as `query`
    float* metric;                                    // (n_frames, n_tokens, head_size)
};
void heads_attention(const Kernels& kernels, const HeadsAttention& all, const Parallel& parallel);

}  // namespace aurora
