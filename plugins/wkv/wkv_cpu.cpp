#include "wkv_cpu.h"

#include <initializer_list>

namespace aurora {

void wkv(const Kernels& kernels, const WkvSizes& sizes, const WkvHead& tensors, const Parallel& parallel) {
    const std::size_t size = sizes.head_size, width = sizes.n_heads * size;
    const bool is_6 = tensors.removal == nullptr;
    parallel(sizes.n_sequences * sizes.n_heads, [&](std::size_t index) {
        const std::size_t sequence = index / sizes.n_heads, n = index % sizes.n_heads;
        const std::size_t first = sequence * sizes.n_tokens * width + n * size;
        WkvHead head = tensors;
        head.n_tokens = sizes.n_tokens;
        head.size = size;
        head.row_stride = width;
        for (const float** tensor : {&head.receptance, &head.key, &head.value, &head.log_decay}) *tensor += first;
        head.output += first;
        head.state += index * size * size;
        head.next_state += index * size * size;
        if (is_6) {
            head.bonus += n * size;
            kernels.wkv6(head);
        } else {
            head.removal += first;
            head.replacement += first;
            kernels.wkv7(head);
        }
    });
}

}  // namespace aurora
