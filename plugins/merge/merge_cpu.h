// Sorted token merging in one pass: `aurora::MergeTokens` on raw memory; see README.md.
#pragma once

#include "../cpu/levels.h"
#include "../cpu/parallel.h"

namespace aurora {

// All contiguous. `sizes` are integers; the new ones are sums of them.
struct MergeTokens {
    std::size_t n_frames, n_tokens, width, metric_size, n_patches;
    std::size_t n_merged;  // from 1 to (n_tokens - 1) / 2, or n_tokens / 2 if the first token may merge
    bool protect_first;    // never merge token 0, nor move it
    bool first_apart;      // token 0 belongs to neither set
    int order;             // of sizes: 1 ascending, -1 descending, 0 as merging leaves the tokens
    const float* x;                // (n_frames, n_tokens, width)
    const float* metric;           // (n_frames, n_tokens, metric_size)
    const float* sizes;            // (n_frames, n_tokens)
    const std::int64_t* owner;     // (n_frames, n_patches)
    float* merged;                 // (n_frames, n_tokens - n_merged, width)
    float* merged_sizes;           // (n_frames, n_tokens - n_merged)
    std::int64_t* merged_owner;    // (n_frames, n_patches)
};

// What forbids to read by `sizes` and `owner`, or nullptr.
const char* wrong_tokens(const MergeTokens& all);

// All must be right.
void merge_tokens(const Kernels& kernels, const MergeTokens& all, const Parallel& parallel);

}  // namespace aurora
