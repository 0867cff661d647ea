// What the kernels share on the device: where a block works, and how the recurrences bring tokens to its shared memory.
//
// A block computes one slice of kColumns value columns of one head: columns never meet in the recurrence, so that 32
// heads give 128 blocks. Offsets are 64 bit: B × T × H × N may pass 2^31.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "wkv_device_sizes.h"

namespace aurora {

// Chunk kernel: kGroups threads share a column, each holding kHeadSize / kGroups of its rows in registers. A tile has
// as many tokens as a column has threads, so that each of them keeps and writes one token's output.
constexpr int kGroups = 8;
constexpr int kRows = kHeadSize / kGroups;
constexpr int kChunkThreads = kColumns * kGroups;
constexpr int kTileTokens = kGroups;
static_assert(kChunkThreads == kTileTokens * kHeadSize / 4, "a thread stages four elements of each vector of a tile");
static_assert(kChunkThreads == kTileTokens * kColumns, "a thread stages one value of a tile");

// Step kernel: a thread holds kStepRows rows of four columns, read and written as float4.
constexpr int kStepThreads = kHeadSize;
constexpr int kStepQuads = kColumns / 4;
constexpr int kStepGroups = kStepThreads / kStepQuads;
constexpr int kStepRows = kHeadSize / kStepGroups;
constexpr int kStepWarps = kStepThreads / 32;

constexpr unsigned kWholeWarp = 0xffffffffu;

template <typename Element>
struct alignas(4 * sizeof(Element)) Four {
  Element elements[4];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void store_as(float* to, float x) { *to = x; }
__device__ __forceinline__ void store_as(__half* to, float x) { *to = __float2half_rn(x); }
__device__ __forceinline__ void store_as(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

template <typename Element>
__device__ __forceinline__ float4 load_four(const Element* from) {
  const Four<Element> four = *reinterpret_cast<const Four<Element>*>(from);
  return make_float4(
      to_float(four.elements[0]), to_float(four.elements[1]), to_float(four.elements[2]), to_float(four.elements[3]));
}

__device__ __forceinline__ float4 exp_of(float4 x) { return make_float4(expf(x.x), expf(x.y), expf(x.z), expf(x.w)); }

// What the launch passes by value: sizes that index arithmetic needs.
struct Sizes {
  int64_t n_tokens;
  int64_t n_heads;
};

// The block's place: its head, its columns, and the offsets of its first token's row and of its state.
struct Place {
  int64_t head;
  int64_t first_row;   // of (B, T, H, N): sequence b, token 0, head h
  int64_t token_stride;
  int64_t state;       // of (B, H, N, N): sequence b, head h
  int first_column;

  // n_slices: blocks of a head.
  __device__ explicit Place(const Sizes& sizes, int n_slices = kSlices) {
    const int64_t matrix = blockIdx.x / n_slices;  // b * H + h
    const int64_t sequence = matrix / sizes.n_heads;
    head = matrix % sizes.n_heads;
    token_stride = sizes.n_heads * kHeadSize;
    first_row = sequence * sizes.n_tokens * token_stride + head * kHeadSize;
    state = matrix * kHeadSize * kHeadSize;
    first_column = static_cast<int>(blockIdx.x % n_slices) * (kHeadSize / n_slices);
  }
};

// Per-token inputs. vectors: all that are indexed by key row, but the decay.
template <typename Element, int kVectors>
struct TokenArrays {
  const Element* vectors[kVectors];
  const Element* value;
  const float* log_decay;
};

// kTileTokens tokens in shared memory, as float32, the decay already out of its logarithm.
template <int kVectors>
struct alignas(16) Tile {
  float vectors[kVectors][kTileTokens][kHeadSize];
  float decay[kTileTokens][kHeadSize];
  float value[kTileTokens][kColumns];
};

// A thread's share of the next tile, held in registers while the block computes the one before.
template <typename Element, int kVectors>
struct StagedTokens {
  float4 vectors[kVectors];
  float4 log_decay;
  float value;

  // Read tokens [first, first + kTileTokens) of those that exist.
  __device__ void load(
      const TokenArrays<Element, kVectors>& arrays, const Place& place, int64_t first, int64_t n_tokens) {
    const int64_t token = first + threadIdx.x / kColumns;
    if (token >= n_tokens) return;
    const int64_t row = place.first_row + token * place.token_stride;
    const int element = threadIdx.x % kColumns * 4;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) vectors[i] = load_four(arrays.vectors[i] + row + element);
    log_decay = load_four(arrays.log_decay + row + element);
    value = to_float(arrays.value[row + place.first_column + threadIdx.x % kColumns]);
  }

  // Write them to shared memory; rows of tokens that do not exist are written too, and never read.
  __device__ void store(Tile<kVectors>& tile) const {
    const int token = threadIdx.x / kColumns, element = threadIdx.x % kColumns * 4;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) *reinterpret_cast<float4*>(&tile.vectors[i][token][element]) = vectors[i];
    *reinterpret_cast<float4*>(&tile.decay[token][element]) = exp_of(log_decay);
    tile.value[token][threadIdx.x % kColumns] = value;
  }
};

// Row of the state that register i of a thread of `group` holds: four in a row, so that a vector of a tile is read as
// float4, and the eight groups of a column read 128 bytes without bank conflicts.
__device__ __forceinline__ int row_of(int group, int i) { return i / 4 * (4 * kGroups) + group * 4 + i % 4; }

// A thread's kRows elements of a vector in shared memory.
__device__ __forceinline__ void load_rows(float (&rows)[kRows], const float* vector, int group) {
#pragma unroll
  for (int i = 0; i < kRows; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(vector + row_of(group, i));
    rows[i] = four.x;
    rows[i + 1] = four.y;
    rows[i + 2] = four.z;
    rows[i + 3] = four.w;
  }
}

// Sum over the kGroups threads of a column; each of them gets it.
__device__ __forceinline__ float sum_of_column(float x) {
#pragma unroll
  for (int distance = kGroups / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kWholeWarp, x, distance);
  return x;
}

// Step kernel: sum over all rows of a block's columns. sums: shared, one row for each warp; a buffer for each call, as
// nothing waits before it is written. Each thread gets the sums of its own four columns.
__device__ __forceinline__ float4 sum_over_rows(float4 x, float4 (&sums)[kStepWarps][kStepQuads]) {
#pragma unroll
  for (int distance = kStepQuads; distance < 32; distance *= 2) {
    x.x += __shfl_xor_sync(kWholeWarp, x.x, distance);
    x.y += __shfl_xor_sync(kWholeWarp, x.y, distance);
    x.z += __shfl_xor_sync(kWholeWarp, x.z, distance);
    x.w += __shfl_xor_sync(kWholeWarp, x.w, distance);
  }
  const int quad = threadIdx.x % kStepQuads;
  if (threadIdx.x % 32 < kStepQuads) sums[threadIdx.x / 32][quad] = x;
  __syncthreads();
  float4 total = sums[0][quad];
#pragma unroll
  for (int warp = 1; warp < kStepWarps; ++warp) {
    const float4 other = sums[warp][quad];
    total = make_float4(total.x + other.x, total.y + other.y, total.z + other.z, total.w + other.w);
  }
  return total;
}

// a * x + y, for four columns.
__device__ __forceinline__ float4 fma_four(float a, float4 x, float4 y) {
  return make_float4(fmaf(a, x.x, y.x), fmaf(a, x.y, y.y), fmaf(a, x.z, y.z), fmaf(a, x.w, y.w));
}

__device__ __forceinline__ float4 scale_four(float a, float4 x) {
  return make_float4(a * x.x, a * x.y, a * x.z, a * x.w);
}

template <typename Element>
__device__ __forceinline__ void store_four(Element* to, float4 x) {
  Four<Element> four;
  store_as(&four.elements[0], x.x);
  store_as(&four.elements[1], x.y);
  store_as(&four.elements[2], x.z);
  store_as(&four.elements[3], x.w);
  *reinterpret_cast<Four<Element>*>(to) = four;
}

}  // namespace aurora
