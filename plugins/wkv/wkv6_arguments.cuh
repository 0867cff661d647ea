// What both forms of aurora::Wkv6 are launched with.
#pragma once

#include "wkv_device.cuh"
#include "wkv_kernel.h"

namespace aurora {

enum Wkv6Vector { kReceptance, kKey, kWkv6Vectors };

template <typename Element>
struct Wkv6Arguments {
  TokenArrays<Element, kWkv6Vectors> tokens;
  const float* bonus;
  const float* state;
  Element* output;
  float* next_state;
  Sizes sizes;

  Wkv6Arguments(const AuroraWkv6Arrays& arrays, const AuroraWkvSizes& sizes)
      : tokens{{static_cast<const Element*>(arrays.receptance), static_cast<const Element*>(arrays.key)},
               static_cast<const Element*>(arrays.value),
               arrays.log_decay},
        bonus(arrays.bonus),
        state(arrays.state),
        output(static_cast<Element*>(arrays.output)),
        next_state(arrays.next_state),
        sizes{sizes.n_tokens, sizes.n_heads} {}
};

// Enqueue the form on tensor cores: wkv6_tensor_kernel.cu. form: one of AURORA_WKV6_TENSOR...
const char* enqueue_wkv6_tensor(
    const AuroraWkv6Arrays& arrays, const AuroraWkvSizes& sizes, AuroraElementType element_type, AuroraWkv6Form form,
    cudaStream_t stream);

}  // namespace aurora
