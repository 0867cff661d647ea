// aurora::Wkv6 on CUDA for many tokens, by products on tensor cores over chunks of eight tokens.
//
// With d the decays exp(w) of a chunk, and for a token t and a key the products before[t] = d[0] ... d[t - 1],
// after[t] = d[t + 1] ... d[7] and total = d[0] ... d[7]:
//
//     y[t] = sum over s <= t of A[t, s] v[s]  +  sum over keys of r[t] before[t] S
//     S <- total S + sum over s of k[s] after[s] v[s]
//     A[t, s] = sum over keys of r[t] d[s + 1] ... d[t - 1] k[s] for s < t, of r[t] u k[t] for s = t
//
// Decays are multiplied, never divided and never summed as logarithms: no factor is over 1, so nothing overflows and
// nothing is clamped, and a slow decay beside a fast one keeps all its bits.
//
// A block computes 16 * kTiles value columns of a head; each of its four warps has 16 of the 64 keys, of A too, so that
// warps meet only in the sum of their outputs. How a warp holds what it has: wkv6_fragments.cuh.

#include "wkv6_fragments.cuh"
#include "wkv_launch.h"

namespace aurora {
namespace {

constexpr int kChunks = 2;  // that a turn of the loop computes side by side
static_assert(kWarps == 2 * kChunks, "a warp writes every other token of a chunk");

// What the products of a chunk with the state and the values need of r, k and the decays.
template <typename Element>
struct Prepared {
  Operand<2, kComputedParts<Element>> scores, receptance[kSteps];
  Operand<2, 2> key[kSteps];
  float total[kLaneKeys];
};

// Prepare the chunks of a turn, side by side: each waits for shuffles and products in turn.
// keys: shared, of this warp alone, last read before the barrier of the previous turn.
template <typename Element, int kTiles>
__device__ __forceinline__ void prepare(
    Prepared<Element> (&prepared)[kChunks], const ReadChunk<Element, kTiles> (&read)[kChunks], const Lane& lane,
    const float (&bonus)[kLaneKeys], float (&keys)[kChunks][kChunk][kKeyStride]) {
  constexpr int kParts = kComputedParts<Element>;
  Decayed tokens[kChunks];
  Scores<Element> scores[kChunks];
#pragma unroll
  for (int i = 0; i < kChunks; ++i) tokens[i].read(read[i].receptance, read[i].key, read[i].log_decay);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) scores[i].set_near(tokens[i], bonus);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) tokens[i].template join<1>(lane);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) multiply_halves<kParts, 2>(scores[i].pairs, lane, tokens[i]);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) tokens[i].template join<2>(lane);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) multiply_halves<kParts, 4>(scores[i].fours, lane, tokens[i]);
#pragma unroll
  for (int i = 0; i < kChunks; ++i) tokens[i].template join<4>(lane);
  // Products with r have keys as depth, those with k tokens: the keys change places.
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    const float(&key)[kLaneKeys] = tokens[i].key;
    store_four(&keys[i][lane.group][lane.quad * kLaneKeys], make_float4(key[0], key[1], key[2], key[3]));
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kChunks; ++i) {
    prepared[i].scores = scores[i].operand(lane);
#pragma unroll
    for (int slot = 0; slot < 2 * kSteps; ++slot) {
      const int half = slot / kSteps, step = slot % kSteps;
      prepared[i].receptance[step].set(half, tokens[i].receptance[slot]);
      prepared[i].key[step].set(half, keys[i][2 * lane.quad + half][2 * lane.group + step]);
      prepared[i].total[slot] = tokens[i].total[slot];
    }
  }
}

// A warp's share of a chunk's output, and the state moved behind the chunk. outputs: shared, as accumulators have them.
template <typename Element, int kTiles>
__device__ __forceinline__ void compute(
    const Prepared<Element>& prepared, const ReadChunk<Element, kTiles>& read, State<kTiles>& state,
    float (&outputs)[kTiles][4][32]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    Operand<4, kReadParts<Element>> value;
#pragma unroll
    for (int i = 0; i < 4; ++i) set_read<Element>(value, i, to_float(read.value[tile][i / 2].elements[i % 2]));
    float output[kSteps][4] = {};  // apart, so that products do not wait for each other
    multiply_add(output[0], value, prepared.scores);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      float update[4] = {};
      multiply_add(update, value, prepared.key[step]);
      multiply_add(
          output[step], state.template operand<kComputedParts<Element>>(tile, step), prepared.receptance[step]);
      state.advance(prepared.total, tile, step, update);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) outputs[tile][i][threadIdx.x % 32] = output[0][i] + output[1][i];
  }
}

template <int kTiles>
using Outputs = float[kWarps][kChunks][kTiles][4][32];

// Add up the warps' shares of a turn and write them. A warp writes every other token of a chunk, two columns a thread.
template <int kTiles, typename Element>
__device__ __forceinline__ void write_outputs(
    Element* to, const Outputs<kTiles>& outputs, const Place& place, const Lane& lane, int64_t first,
    int64_t n_tokens) {
  const int chunk = lane.warp / 2, of_two = lane.warp % 2;
  const int64_t token = first + chunk * kChunk + 2 * lane.quad + of_two;
  if (token >= n_tokens) return;
  Element* const row = to + place.first_row + token * place.token_stride + place.first_column + 2 * lane.group;
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float sums[2] = {};
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) {
      sums[0] += outputs[warp][chunk][tile][of_two][threadIdx.x % 32];
      sums[1] += outputs[warp][chunk][tile][2 + of_two][threadIdx.x % 32];
    }
    Two<Element> two;
    store_as(&two.elements[0], sums[0]);
    store_as(&two.elements[1], sums[1]);
    *reinterpret_cast<Two<Element>*>(row + tile * kTileColumns) = two;
  }
}

// Any T. The chunks of the next turn are on their way while those of this one are computed.
template <typename Element, int kTiles>
__global__ void __launch_bounds__(kTensorThreads) wkv6_tensor(const Wkv6Arguments<Element> arguments) {
  alignas(16) __shared__ float keys[kWarps][kChunks][kChunk][kKeyStride];
  __shared__ Outputs<kTiles> outputs[2];
  const Place place(arguments.sizes, kHeadSize / (kTileColumns * kTiles));
  const Lane lane;
  const int64_t n_tokens = arguments.sizes.n_tokens;
  float bonus[kLaneKeys];
#pragma unroll
  for (int i = 0; i < kLaneKeys; ++i) {
    bonus[i] = arguments.bonus[place.head * kHeadSize + lane.warp * kWarpKeys + lane.quad * kLaneKeys + i];
  }
  State<kTiles> state;
  state.load(arguments.state + place.state + place.first_column, lane);
  ReadChunk<Element, kTiles> next[kChunks];
#pragma unroll
  for (int i = 0; i < kChunks; ++i) next[i].load(arguments.tokens, place, lane, i * kChunk, n_tokens);
  int buffer = 0;
  for (int64_t first = 0; first < n_tokens; first += kChunks * kChunk) {
    ReadChunk<Element, kTiles> read[kChunks];
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      read[i] = next[i];
      if (first + i * kChunk + lane.group >= n_tokens) read[i].leave_out();
      next[i].load(arguments.tokens, place, lane, first + (kChunks + i) * kChunk, n_tokens);
    }
    __syncwarp();  // products need the whole warp at one place
    Prepared<Element> prepared[kChunks];
    prepare(prepared, read, lane, bonus, keys[lane.warp]);
#pragma unroll
    for (int i = 0; i < kChunks; ++i) compute(prepared[i], read[i], state, outputs[buffer][lane.warp][i]);
    // The next turn writes the other buffer, which was last read before this barrier.
    __syncthreads();
    write_outputs<kTiles>(arguments.output, outputs[buffer], place, lane, first, n_tokens);
    buffer ^= 1;
  }
  state.store(arguments.next_state + place.state + place.first_column, lane);
}

template <typename Element, int kTiles>
const char* launch_tensor(const AuroraWkv6Arrays& arrays, const AuroraWkvSizes& sizes, cudaStream_t stream) {
  Wkv6Arguments<Element> arguments(arrays, sizes);
  const unsigned blocks = n_blocks(sizes, kHeadSize / (kTileColumns * kTiles));
  return launch(wkv6_tensor<Element, kTiles>, kTensorThreads, arguments, blocks, stream);
}

template <typename Element>
const char* enqueue(
    const AuroraWkv6Arrays& arrays, const AuroraWkvSizes& sizes, AuroraWkv6Form form, cudaStream_t stream) {
  return form == AURORA_WKV6_TENSOR_64 ? launch_tensor<Element, 4>(arrays, sizes, stream)
                                       : launch_tensor<Element, 1>(arrays, sizes, stream);
}

// A wide block does the work on A and the decays once for 64 columns, narrow ones are four times as many. Wide blocks win
// as soon as they fill most of the multiprocessors: see README.md.
const char* choose_columns(const AuroraWkvSizes& sizes, AuroraWkv6Form* form) {
  int device, n_multiprocessors;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&n_multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return message("CUDA: %s", cudaGetErrorString(error));
  const bool fills = 4 * sizes.n_sequences * sizes.n_heads >= int64_t{3} * n_multiprocessors;
  *form = fills ? AURORA_WKV6_TENSOR_64 : AURORA_WKV6_TENSOR_16;
  return nullptr;
}

}  // namespace

const char* enqueue_wkv6_tensor(
    const AuroraWkv6Arrays& arrays, const AuroraWkvSizes& sizes, AuroraElementType element_type, AuroraWkv6Form form,
    cudaStream_t stream) {
  if (form == AURORA_WKV6_TENSOR) {
    if (const char* refusal = choose_columns(sizes, &form)) return refusal;
  }
  switch (element_type) {
    case AURORA_FLOAT16: return enqueue<__half>(arrays, sizes, form, stream);
    case AURORA_BFLOAT16: return enqueue<__nv_bfloat16>(arrays, sizes, form, stream);
    default: return enqueue<float>(arrays, sizes, form, stream);
  }
}

}  // namespace aurora
