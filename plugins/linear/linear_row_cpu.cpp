// One row: a walk along the weights as they lie in the file, of which the memory is the limit.
#include <algorithm>
#include <vector>

#include "linear_cpu.h"

namespace aurora {
namespace {

// Bytes of weights that one piece of work reads: enough to be worth a hand-over, and to be shared well.
constexpr std::size_t BYTES_AT_ONCE = 96 * 1024;

template <typename T>
T* at_least(std::vector<T>& memory, std::size_t n) {
    if (memory.size() < n) memory.resize(n);
    return memory.data();
}

}  // namespace

void linear_row(const Kernels& kernels, const BlockWeights& weights, const float* x, float* y, const Parallel& parallel) {
    // Kept by the thread that asks, from one layer to the next.
    thread_local std::vector<std::int8_t> codes;
    thread_local std::vector<float> scales;
    thread_local std::vector<std::int32_t> offsets;
    const std::size_t n_blocks = weights.n_blocks(), n_codes = n_blocks * weights.block_size;
    const std::size_t n_lanes = n_codes / 4 + MAX_VECTOR_LANES;  // at 8 bits, where a lane has four codes
    const RowCodes row = {weights.bits,
                          n_blocks,
                          weights.block_size,
                          at_least(codes, n_codes + MAX_VECTOR_CODES),
                          at_least(scales, n_lanes),
                          at_least(offsets, n_lanes)};
    kernels.prepare_row(x, weights.n_inputs, row);
    const std::size_t row_bytes = weights.row_bytes(), step = std::max<std::size_t>(4, BYTES_AT_ONCE / row_bytes / 4 * 4);
    parallel((weights.n_outputs + step - 1) / step, [&](std::size_t i) {
        const std::size_t first = i * step;
        const std::size_t n = std::min(step, weights.n_outputs - first);
        kernels.multiply_row(row, weights.codes + first * row_bytes, weights.scales + first * n_blocks, n, y + first);
    });
}

}  // namespace aurora
