// aurora::Wkv6 on CUDA: y = r (S + diag(u) k v), then S <- diag(exp(w)) S + k v. The formula's source: reference.py.
//
// Here are the recurrence itself, for one token and for many, and the choice of the form; wkv6_tensor_kernel.cu has the
// other form.

#include "wkv6_arguments.cuh"
#include "wkv_device.cuh"
#include "wkv_launch.h"

namespace aurora {
namespace {

// T = 1. The state is read once and written once; every thread has its four reads under way before it waits.
template <typename Element>
__global__ void __launch_bounds__(kStepThreads) wkv6_step(const Wkv6Arguments<Element> arguments) {
  __shared__ float receptance[kHeadSize], key[kHeadSize], decay[kHeadSize], bonus[kHeadSize];
  __shared__ float4 sums[kStepWarps][kStepQuads];
  const Place place(arguments.sizes);
  const int quad = threadIdx.x % kStepQuads, group = threadIdx.x / kStepQuads;
  const int column = place.first_column + quad * 4;
  float4 state[kStepRows];
#pragma unroll
  for (int i = 0; i < kStepRows; ++i) {
    state[i] = load_four(arguments.state + place.state + (group + i * kStepGroups) * kHeadSize + column);
  }
  const float4 value = load_four(arguments.tokens.value + place.first_row + column);
  receptance[threadIdx.x] = to_float(arguments.tokens.vectors[kReceptance][place.first_row + threadIdx.x]);
  key[threadIdx.x] = to_float(arguments.tokens.vectors[kKey][place.first_row + threadIdx.x]);
  decay[threadIdx.x] = expf(arguments.tokens.log_decay[place.first_row + threadIdx.x]);
  bonus[threadIdx.x] = arguments.bonus[place.head * kHeadSize + threadIdx.x];
  __syncthreads();
  float4 output = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
  for (int i = 0; i < kStepRows; ++i) {
    const int row = group + i * kStepGroups;
    const float4 outer = scale_four(key[row], value);
    output = fma_four(receptance[row], fma_four(bonus[row], outer, state[i]), output);
    const float4 next = fma_four(decay[row], state[i], outer);
    store_four(arguments.next_state + place.state + row * kHeadSize + column, next);
  }
  output = sum_over_rows(output, sums);
  if (threadIdx.x < kStepQuads) store_four(arguments.output + place.first_row + column, output);
}

// Any T. The state stays in registers from the first token to the last, so that a token costs no memory but its own:
// the arithmetic is that of the recurrence, and a text cut anywhere gives the same bits. The next tile of tokens is on
// its way while this one is computed.
template <typename Element>
__global__ void __launch_bounds__(kChunkThreads) wkv6_chunk(const Wkv6Arguments<Element> arguments) {
  __shared__ Tile<kWkv6Vectors> tiles[2];
  const Place place(arguments.sizes);
  const int64_t n_tokens = arguments.sizes.n_tokens;
  const int column = threadIdx.x / kGroups, group = threadIdx.x % kGroups;
  const int64_t in_state = place.state + place.first_column + column;
  float state[kRows], bonus[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    state[i] = arguments.state[in_state + row_of(group, i) * kHeadSize];
    bonus[i] = arguments.bonus[place.head * kHeadSize + row_of(group, i)];
  }
  StagedTokens<Element, kWkv6Vectors> staged{};
  staged.load(arguments.tokens, place, 0, n_tokens);
  staged.store(tiles[0]);
  __syncthreads();
  int current = 0;
  for (int64_t first = 0; first < n_tokens; first += kTileTokens) {
    staged.load(arguments.tokens, place, first + kTileTokens, n_tokens);
    const Tile<kWkv6Vectors>& tile = tiles[current];
    const int n_here = static_cast<int>(n_tokens - first < kTileTokens ? n_tokens - first : kTileTokens);
    float output = 0.0f;  // of token `group` of the tile
    for (int token = 0; token < n_here; ++token) {
      float receptance[kRows], key[kRows], decay[kRows];
      load_rows(receptance, tile.vectors[kReceptance][token], group);
      load_rows(key, tile.vectors[kKey][token], group);
      load_rows(decay, tile.decay[token], group);
      const float value = tile.value[token][column];
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const float outer = key[i] * value;
        sum = fmaf(receptance[i], fmaf(bonus[i], outer, state[i]), sum);
        state[i] = fmaf(decay[i], state[i], outer);
      }
      sum = sum_of_column(sum);
      if (token == group) output = sum;
    }
    if (group < n_here) {
      const int64_t row = place.first_row + (first + group) * place.token_stride;
      store_as(arguments.output + row + place.first_column + column, output);
    }
    // The other tile was last read before the barrier that ended the previous turn.
    current ^= 1;
    staged.store(tiles[current]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) arguments.next_state[in_state + row_of(group, i) * kHeadSize] = state[i];
}

template <typename Element>
const char* enqueue(const AuroraWkv6Arrays& arrays, const AuroraWkvSizes& sizes, cudaStream_t stream) {
  Wkv6Arguments<Element> arguments(arrays, sizes);
  return sizes.n_tokens == 1 ? launch(wkv6_step<Element>, kStepThreads, arguments, n_blocks(sizes), stream)
                             : launch(wkv6_chunk<Element>, kChunkThreads, arguments, n_blocks(sizes), stream);
}

const char* refused_form(AuroraWkv6Form form) {
  switch (form) {
    case AURORA_WKV6_AUTO:
    case AURORA_WKV6_RECURRENT:
    case AURORA_WKV6_TENSOR:
    case AURORA_WKV6_TENSOR_16:
    case AURORA_WKV6_TENSOR_64: return nullptr;
  }
  return message("form: is %d; 0 auto, 1 recurrent, 2 tensor, or 16 or 64 for its columns", static_cast<int>(form));
}

AuroraWkv6Form chosen_form(const AuroraWkvSizes& sizes, AuroraElementType element_type) {
  return element_type != AURORA_FLOAT32 && sizes.n_tokens >= AURORA_WKV6_TENSOR_TOKENS ? AURORA_WKV6_TENSOR
                                                                                       : AURORA_WKV6_RECURRENT;
}

}  // namespace
}  // namespace aurora

const char* aurora_wkv6_enqueue(
    const AuroraWkv6Arrays* arrays, const AuroraWkvSizes* sizes, AuroraElementType element_type, cudaStream_t stream) {
  return aurora_wkv6_enqueue_form(arrays, sizes, element_type, AURORA_WKV6_AUTO, stream);
}

const char* aurora_wkv6_enqueue_form(
    const AuroraWkv6Arrays* arrays, const AuroraWkvSizes* sizes, AuroraElementType element_type, AuroraWkv6Form form,
    cudaStream_t stream) {
  if (const char* refusal = aurora_wkv_refusal(sizes, element_type)) return refusal;
  if (const char* refusal = aurora::refused_form(form)) return refusal;
  if (const char* refusal = aurora::refused_arrays(
          {{"receptance", arrays->receptance},
           {"key", arrays->key},
           {"value", arrays->value},
           {"log_decay", arrays->log_decay},
           {"bonus", arrays->bonus},
           {"state", arrays->state},
           {"output", arrays->output},
           {"next_state", arrays->next_state}},
          arrays->state, arrays->next_state, *sizes)) {
    return refusal;
  }
  if (form == AURORA_WKV6_AUTO) form = aurora::chosen_form(*sizes, element_type);
  if (form != AURORA_WKV6_RECURRENT) {
    return aurora::enqueue_wkv6_tensor(*arrays, *sizes, element_type, form, stream);
  }
  switch (element_type) {
    case AURORA_FLOAT16: return aurora::enqueue<__half>(*arrays, *sizes, stream);
    case AURORA_BFLOAT16: return aurora::enqueue<__nv_bfloat16>(*arrays, *sizes, stream);
    default: return aurora::enqueue<float>(*arrays, *sizes, stream);
  }
}
