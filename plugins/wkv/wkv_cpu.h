// WKV on a CPU: the operators `aurora::Wkv6` and `aurora::Wkv7` on raw memory. Shapes as in README.md, float32.
#pragma once

#include "../cpu/levels.h"
#include "../cpu/parallel.h"

namespace aurora {

struct WkvSizes {
    std::size_t n_sequences, n_tokens, n_heads, head_size;
};

// Head sizes over this are refused by whoever calls.
constexpr std::size_t WKV_MAX_HEAD_SIZE = 256;

// Fields of WkvHead as whole tensors: per-token ones (B, T, H, N), bonus (H, N), states (B, H, N, N); `removal` is null
// for RWKV-6 and `bonus` for RWKV-7. `state` and `next_state` may be the same memory. n_tokens is at least 1.
void wkv(const Kernels& kernels, const WkvSizes& sizes, const WkvHead& tensors, const Parallel& parallel);

}  // namespace aurora
