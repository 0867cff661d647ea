#include "wkv_launch.h"

#include <stdarg.h>
#include <stdio.h>

#include "wkv_device_sizes.h"

namespace aurora {

const char* message(const char* format, ...) {
  thread_local char text[256];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

const char* refused_arrays(
    std::initializer_list<NamedArray> arrays, const void* state, const void* next_state, const AuroraWkvSizes& sizes) {
  for (const NamedArray& array : arrays) {
    if (array.address == nullptr) return message("%s: is null", array.name);
    if (reinterpret_cast<uintptr_t>(array.address) % kAlignment != 0) {
      return message("%s: %p is not aligned to %d bytes", array.name, array.address, kAlignment);
    }
  }
  const int64_t n_bytes = sizes.n_sequences * sizes.n_heads * kHeadSize * kHeadSize * 4;
  const int64_t distance = static_cast<const char*>(next_state) - static_cast<const char*>(state);
  if (distance != 0 && distance < n_bytes && distance > -n_bytes) {
    return message("next_state: overlaps state; give the same buffer or another one");
  }
  return nullptr;
}

unsigned n_blocks(const AuroraWkvSizes& sizes, int n_slices) {
  return static_cast<unsigned>(sizes.n_sequences * sizes.n_heads * n_slices);
}

}  // namespace aurora

const char* aurora_wkv_refusal(const AuroraWkvSizes* sizes, AuroraElementType element_type) {
  using aurora::message;
  const long long n_sequences = sizes->n_sequences, n_tokens = sizes->n_tokens, n_heads = sizes->n_heads;
  if (sizes->head_size != aurora::kHeadSize) {
    return message("head_size: is %lld; the CUDA kernels are for %d", static_cast<long long>(sizes->head_size),
                   aurora::kHeadSize);
  }
  if (n_sequences < 1) return message("n_sequences: is %lld; at least 1", n_sequences);
  if (n_tokens < 1) return message("n_tokens: is %lld; at least 1", n_tokens);
  if (n_heads < 1) return message("n_heads: is %lld; at least 1", n_heads);
  if (n_heads > aurora::kMaxMatrices || n_sequences > aurora::kMaxMatrices / n_heads) {
    return message("n_sequences * n_heads: is %lld * %lld; at most %lld", n_sequences, n_heads,
                   static_cast<long long>(aurora::kMaxMatrices));
  }
  if (element_type < AURORA_FLOAT32 || element_type > AURORA_BFLOAT16) {
    return message("element_type: is %d; 0 float32, 1 float16, 2 bfloat16", static_cast<int>(element_type));
  }
  return nullptr;
}
