// aurora::Wkv7 on CUDA: S <- diag(exp(w)) S + b (a S) + k v, then y = r S. The formula's source: reference.py.

#include "wkv_device.cuh"
#include "wkv_launch.h"

namespace aurora {
namespace {

enum Vector { kReceptance, kKey, kRemoval, kReplacement, kVectors };

template <typename Element>
struct Arguments {
  TokenArrays<Element, kVectors> tokens;
  const float* state;
  Element* output;
  float* next_state;
  Sizes sizes;
};

// T = 1; as wkv6_step, with what is removed summed first.
template <typename Element>
__global__ void __launch_bounds__(kStepThreads) wkv7_step(const Arguments<Element> arguments) {
  __shared__ float vectors[kVectors][kHeadSize], decay[kHeadSize];
  __shared__ float4 removed_sums[kStepWarps][kStepQuads], output_sums[kStepWarps][kStepQuads];
  const Place place(arguments.sizes);
  const int quad = threadIdx.x % kStepQuads, group = threadIdx.x / kStepQuads;
  const int column = place.first_column + quad * 4;
  float4 state[kStepRows];
#pragma unroll
  for (int i = 0; i < kStepRows; ++i) {
    state[i] = load_four(arguments.state + place.state + (group + i * kStepGroups) * kHeadSize + column);
  }
  const float4 value = load_four(arguments.tokens.value + place.first_row + column);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    vectors[i][threadIdx.x] = to_float(arguments.tokens.vectors[i][place.first_row + threadIdx.x]);
  }
  decay[threadIdx.x] = expf(arguments.tokens.log_decay[place.first_row + threadIdx.x]);
  __syncthreads();
  float4 removed = make_float4(0.0f, 0.0f, 0.0f, 0.0f), output = removed;
#pragma unroll
  for (int i = 0; i < kStepRows; ++i) removed = fma_four(vectors[kRemoval][group + i * kStepGroups], state[i], removed);
  removed = sum_over_rows(removed, removed_sums);
#pragma unroll
  for (int i = 0; i < kStepRows; ++i) {
    const int row = group + i * kStepGroups;
    const float4 added = fma_four(vectors[kReplacement][row], removed, scale_four(vectors[kKey][row], value));
    const float4 next = fma_four(decay[row], state[i], added);
    output = fma_four(vectors[kReceptance][row], next, output);
    store_four(arguments.next_state + place.state + row * kHeadSize + column, next);
  }
  output = sum_over_rows(output, output_sums);
  if (threadIdx.x < kStepQuads) store_four(arguments.output + place.first_row + column, output);
}

// Any T; as wkv6_chunk.
template <typename Element>
__global__ void __launch_bounds__(kChunkThreads) wkv7_chunk(const Arguments<Element> arguments) {
  __shared__ Tile<kVectors> tiles[2];
  const Place place(arguments.sizes);
  const int64_t n_tokens = arguments.sizes.n_tokens;
  const int column = threadIdx.x / kGroups, group = threadIdx.x % kGroups;
  const int64_t in_state = place.state + place.first_column + column;
  float state[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) state[i] = arguments.state[in_state + row_of(group, i) * kHeadSize];
  StagedTokens<Element, kVectors> staged{};
  staged.load(arguments.tokens, place, 0, n_tokens);
  staged.store(tiles[0]);
  __syncthreads();
  int current = 0;
  for (int64_t first = 0; first < n_tokens; first += kTileTokens) {
    staged.load(arguments.tokens, place, first + kTileTokens, n_tokens);
    const Tile<kVectors>& tile = tiles[current];
    const int n_here = static_cast<int>(n_tokens - first < kTileTokens ? n_tokens - first : kTileTokens);
    float output = 0.0f;  // of token `group` of the tile
    for (int token = 0; token < n_here; ++token) {
      float removal[kRows], receptance[kRows], key[kRows], replacement[kRows], decay[kRows];
      load_rows(removal, tile.vectors[kRemoval][token], group);
      load_rows(receptance, tile.vectors[kReceptance][token], group);
      load_rows(key, tile.vectors[kKey][token], group);
      load_rows(replacement, tile.vectors[kReplacement][token], group);
      load_rows(decay, tile.decay[token], group);
      const float value = tile.value[token][column];
      float removed = 0.0f, sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kRows; ++i) removed = fmaf(removal[i], state[i], removed);
      removed = sum_of_column(removed);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        state[i] = fmaf(decay[i], state[i], fmaf(replacement[i], removed, key[i] * value));
        sum = fmaf(receptance[i], state[i], sum);
      }
      sum = sum_of_column(sum);
      if (token == group) output = sum;
    }
    if (group < n_here) {
      const int64_t row = place.first_row + (first + group) * place.token_stride;
      store_as(arguments.output + row + place.first_column + column, output);
    }
    current ^= 1;
    staged.store(tiles[current]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) arguments.next_state[in_state + row_of(group, i) * kHeadSize] = state[i];
}

template <typename Element>
const char* enqueue(const AuroraWkv7Arrays& arrays, const AuroraWkvSizes& sizes, cudaStream_t stream) {
  Arguments<Element> arguments{
      {{static_cast<const Element*>(arrays.receptance), static_cast<const Element*>(arrays.key),
        static_cast<const Element*>(arrays.removal), static_cast<const Element*>(arrays.replacement)},
       static_cast<const Element*>(arrays.value),
       arrays.log_decay},
      arrays.state,
      static_cast<Element*>(arrays.output),
      arrays.next_state,
      {sizes.n_tokens, sizes.n_heads}};
  return sizes.n_tokens == 1 ? launch(wkv7_step<Element>, kStepThreads, arguments, n_blocks(sizes), stream)
                             : launch(wkv7_chunk<Element>, kChunkThreads, arguments, n_blocks(sizes), stream);
}

}  // namespace
}  // namespace aurora

const char* aurora_wkv7_enqueue(
    const AuroraWkv7Arrays* arrays, const AuroraWkvSizes* sizes, AuroraElementType element_type, cudaStream_t stream) {
  if (const char* refusal = aurora_wkv_refusal(sizes, element_type)) return refusal;
  if (const char* refusal = aurora::refused_arrays(
          {{"receptance", arrays->receptance},
           {"log_decay", arrays->log_decay},
           {"key", arrays->key},
           {"value", arrays->value},
           {"removal", arrays->removal},
           {"replacement", arrays->replacement},
           {"state", arrays->state},
           {"output", arrays->output},
           {"next_state", arrays->next_state}},
          arrays->state, arrays->next_state, *sizes)) {
    return refusal;
  }
  switch (element_type) {
    case AURORA_FLOAT16: return aurora::enqueue<__half>(*arrays, *sizes, stream);
    case AURORA_BFLOAT16: return aurora::enqueue<__nv_bfloat16>(*arrays, *sizes, stream);
    default: return aurora::enqueue<float>(*arrays, *sizes, stream);
  }
}
