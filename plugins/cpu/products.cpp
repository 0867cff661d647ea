// The loop of products of a linear layer, and nothing around it, for benchmarks/bench_products.py: no rounding, no memory
// beyond the cache, no results put in order. It is what a prefill could reach at most with these kernels.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "levels.h"

// Operations (a product and a sum are two) of `n_rounds` rounds of (n_rows, n_inputs) times (n_inputs, n_outputs), in blocks
// of `block_size` inputs, by the level that the operators use. Rows that only fill up a panel do not count. One strip of
// weights stands for all, and its inputs for all inputs. 0 if no level can be used, or the sizes are not whole blocks.
extern "C" __attribute__((visibility("default"))) double aurora_cpu_layer_products(
    std::int64_t n_rounds, std::size_t n_rows, std::size_t n_inputs, std::size_t n_outputs, std::size_t block_size) {
    using namespace aurora;
    const char* error = nullptr;
    const Kernels* kernels = choose_level(&error);
    if (kernels == nullptr || block_size < 16 || block_size > 256 || (block_size & (block_size - 1)) != 0) return 0;
    if (n_inputs % block_size != 0) return 0;
    const std::size_t rows = kernels->panel_rows, n_panels = (n_rows + rows - 1) / rows, n_blocks = STRIP_INPUTS / block_size;
    const std::size_t rest = n_rows % rows, last_width = rest > 0 && rest <= kernels->lanes ? kernels->lanes : rows;
    std::vector<std::int8_t> codes(n_panels * rows * STRIP_INPUTS, 1);
    std::vector<float> scales(n_panels * rows * n_blocks, 1.0f), weight_scales(n_blocks * STRIP_OUTPUTS, 1e-6f);
    std::vector<float> sums(n_panels * rows * STRIP_OUTPUTS);
    std::vector<std::int32_t> offsets(n_panels * rows * n_blocks);
    const std::vector<std::uint8_t> weights(STRIP_OUTPUTS * WEIGHT_STRIDE, 1);
    for (std::int64_t round = 0; round < n_rounds; ++round)
        for (std::size_t output = 0; output < n_outputs; output += STRIP_OUTPUTS)
            for (std::size_t input = 0; input < n_inputs; input += STRIP_INPUTS) {
                const std::size_t n = std::min(STRIP_INPUTS, n_inputs - input);
                const WeightStrip strip = {std::min(STRIP_OUTPUTS, n_outputs - output), weights.data(), WEIGHT_STRIDE,
                                           weight_scales.data()};
                const auto panel_at = [&](std::size_t i) -> Panel {
                    const std::size_t at = i * rows, width = i + 1 == n_panels ? last_width : rows;
                    return {std::min(rows, n_rows - at), width, n / block_size, block_size, codes.data() + at * STRIP_INPUTS,
                            scales.data() + at * n_blocks, offsets.data() + at * n_blocks};
                };
                for (std::size_t i = 0; i < n_panels; ++i) {
                    const Panel next = panel_at((i + 1) % n_panels);  // asked for meanwhile, as in a layer
                    kernels->multiply_panel(panel_at(i), strip, input == 0, sums.data() + i * rows * STRIP_OUTPUTS,
                                            {0, 0, nullptr, 0, nullptr, 0, next.codes, n * next.width});
                }
            }
    return 2.0 * static_cast<double>(n_rounds) * static_cast<double>(n_rows * n_inputs) * static_cast<double>(n_outputs);
}
