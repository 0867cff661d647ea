// The tensor form of aurora::Wkv6, as fragments of products have it: a chunk's tokens, A and the state of one warp.
//
// A thread has token `group` of a chunk and four of its warp's 16 keys, for every vector. Products of decays over tokens
// are shuffles; keys are the depth of a product in the order in which they lie (Lane::key_of). The state is transposed, as
// accumulators, which are the operand of the product with r without any value moved.
#pragma once

#include "tensor_core.cuh"
#include "wkv6_arguments.cuh"

namespace aurora {

constexpr int kChunk = 8;
constexpr int kTileColumns = 16;
constexpr int kWarps = 4;
constexpr int kTensorThreads = kWarps * 32;
constexpr int kWarpKeys = kHeadSize / kWarps;
constexpr int kLaneKeys = kWarpKeys / 4;
constexpr int kSteps = kWarpKeys / 8;  // products that it takes to sum over the keys of a warp
constexpr int kKeyStride = 20;         // of a token in shared memory: reads of pairs without bank conflicts
static_assert(kLaneKeys == 4 && kSteps == 2, "a lane's keys are two slots of two products");

// Parts of what is computed and then multiplied for the output: one rounds it to 2^-11, which hides in an output of
// bfloat16 (2^-9), not in one of float16 (2^-12). What is added to the state has two always.
template <typename Element>
constexpr int kComputedParts = 2;
template <>
constexpr int kComputedParts<__nv_bfloat16> = 1;

// Parts of what is multiplied as it was read.
template <typename Element>
constexpr int kReadParts = sizeof(Element) == 2 ? 1 : 2;

template <typename Element, typename Operand>
__device__ __forceinline__ void set_read(Operand& operand, int i, float x) {
  if constexpr (sizeof(Element) == 2) {
    operand.set_exact(i, x);
  } else {
    operand.set(i, x);
  }
}

struct Lane {
  int warp, group, quad;
  __device__ Lane() : warp(threadIdx.x / 32), group(threadIdx.x % 32 / 4), quad(threadIdx.x % 4) {}

  // The key, of a warp's 16, of slot `quad + 4 * half` of product `step`.
  __device__ int key_of(int half, int step) const { return 4 * quad + 2 * half + step; }
};

template <typename Element>
struct alignas(2 * sizeof(Element)) Two {
  Element elements[2];
};

// What a thread reads of a chunk, as it is in memory.
template <typename Element, int kTiles>
struct ReadChunk {
  Four<Element> receptance, key;
  float4 log_decay;
  Two<Element> value[kTiles][2];  // of tokens 2 * quad and 2 * quad + 1

  // In the place of a token that does not exist the last one is read.
  __device__ __forceinline__ void load(
      const TokenArrays<Element, kWkv6Vectors>& arrays, const Place& place, const Lane& lane, int64_t first,
      int64_t n_tokens) {
    first = min(first, n_tokens - 1);
    const int last = static_cast<int>(min(n_tokens - 1 - first, int64_t{kChunk - 1}));
    const int64_t row = place.first_row + first * place.token_stride;
    const int64_t keys =
        row + min(lane.group, last) * place.token_stride + lane.warp * kWarpKeys + lane.quad * kLaneKeys;
    receptance = *reinterpret_cast<const Four<Element>*>(arrays.vectors[kReceptance] + keys);
    key = *reinterpret_cast<const Four<Element>*>(arrays.vectors[kKey] + keys);
    log_decay = load_four(arrays.log_decay + keys);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t columns =
          row + min(2 * lane.quad + i, last) * place.token_stride + place.first_column + 2 * lane.group;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        value[tile][i] = *reinterpret_cast<const Two<Element>*>(arrays.value + columns + tile * kTileColumns);
      }
    }
  }

  // A token that adds nothing to the state and takes nothing of it.
  __device__ __forceinline__ void leave_out() {
    key = {};
    log_decay = {};
  }
};

// A thread's token and keys, with the decays inside of the token's block of 1, 2, 4 or 8 tokens.
struct Decayed {
  float receptance[kLaneKeys];  // r before
  float key[kLaneKeys];         // k after
  float total[kLaneKeys];       // of the block

  template <typename Element>
  __device__ __forceinline__ void read(
      const Four<Element>& receptances, const Four<Element>& keys, const float4& log_decay) {
    const float4 decay = exp_of(log_decay);
    const float each[] = {decay.x, decay.y, decay.z, decay.w};
#pragma unroll
    for (int i = 0; i < kLaneKeys; ++i) {
      receptance[i] = to_float(receptances.elements[i]);
      key[i] = to_float(keys.elements[i]);
      total[i] = each[i];
    }
  }

  // Join the blocks of kSize tokens in pairs.
  template <int kSize>
  __device__ __forceinline__ void join(const Lane& lane) {
#pragma unroll
    for (int i = 0; i < kLaneKeys; ++i) {
      const float other = __shfl_xor_sync(kWholeWarp, total[i], kSize * 4);
      if (lane.group & kSize) {
        receptance[i] *= other;
      } else {
        key[i] *= other;
      }
      total[i] *= other;
    }
  }
};

// Products of the tokens in the second halves of blocks of 2 * kSize with those in the first, decays between them
// included: c[0], c[1] = sums over the warp's keys of x[group] x[2 * quad], x[group] x[2 * quad + 1]. Half the rows of a
// fragment are not needed, and hold the small parts.
template <int kParts, int kSize>
__device__ __forceinline__ void multiply_halves(float (&c)[4], const Lane& lane, const Decayed& token) {
  float x[kLaneKeys];
#pragma unroll
  for (int i = 0; i < kLaneKeys; ++i) x[i] = lane.group & kSize ? token.receptance[i] : token.key[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) c[i] = 0.0f;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    Operand<2, kParts> columns;
    columns.set(0, x[step]);
    columns.set(1, x[2 + step]);
    const float *large = columns.parts[0], *small = columns.parts[kParts - 1];
    const float rows[] = {large[0], small[0], large[1], small[1]};
#pragma unroll
    for (int part = kParts - 1; part >= 0; --part) mma_tf32(c, rows, columns.parts[part]);
  }
  if constexpr (kParts == 2) c[0] += c[2], c[1] += c[3];
}

// A of a chunk, as far as the warp's keys make it, for token t = group and s = 2 * quad, 2 * quad + 1. Three products make
// it, because any two tokens lie in the two halves of exactly one block of 2, 4 or 8 tokens.
template <typename Element>
struct Scores {
  float near[4], pairs[4], fours[4];

  // Tokens beside each other have no decay between them; rows of the second half are those of the bonus.
  __device__ __forceinline__ void set_near(const Decayed& token, const float (&bonus)[kLaneKeys]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) near[i] = 0.0f;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Operand<4, kComputedParts<Element>> rows;
      Operand<2, kReadParts<Element>> columns;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = 2 * half + step;
        set_read<Element>(rows, 2 * half, token.receptance[i]);
        rows.set(2 * half + 1, token.receptance[i] * bonus[i]);
        set_read<Element>(columns, half, token.key[i]);
      }
      multiply_add(near, rows, columns);
    }
  }

  __device__ __forceinline__ Operand<2, kComputedParts<Element>> operand(const Lane& lane) const {
    Operand<2, kComputedParts<Element>> found;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = lane.group, s = 2 * lane.quad + i, differing = t ^ s;
      float score = s == t ? near[2 + i] : near[i];
      if (differing & 2) score = pairs[i];
      if (differing & 4) score = fours[i];
      found.set(i, s > t ? 0.0f : score);
    }
    return found;
  }
};

// A warp's 16 keys of kTiles * 16 columns of the state, transposed, as accumulators. Rows `group` and `group + 8` of a
// fragment are the neighbouring columns 2 * group and 2 * group + 1, so that they are read and written together.
template <int kTiles>
struct State {
  float tiles[kTiles][kSteps][4];

  // Offset in a matrix of state [tile][step][i], beside the first column of the block.
  static __device__ int offset(const Lane& lane, int tile, int step, int i) {
    const int key = lane.warp * kWarpKeys + lane.key_of(i % 2, step);
    return key * kHeadSize + tile * kTileColumns + 2 * lane.group + i / 2;
  }

  __device__ __forceinline__ void load(const float* from, const Lane& lane) {
#pragma unroll
    for (int i = 0; i < kTiles * kSteps * 4; ++i) {
      tiles[i / 8][i / 4 % 2][i % 4] = from[offset(lane, i / 8, i / 4 % 2, i % 4)];
    }
  }

  __device__ __forceinline__ void store(float* to, const Lane& lane) const {
#pragma unroll
    for (int i = 0; i < kTiles * kSteps * 4; ++i) {
      to[offset(lane, i / 8, i / 4 % 2, i % 4)] = tiles[i / 8][i / 4 % 2][i % 4];
    }
  }

  // The accumulators of (tile, step) as the operand whose depth is the keys: the same values in another order.
  template <int kParts>
  __device__ __forceinline__ Operand<4, kParts> operand(int tile, int step) const {
    Operand<4, kParts> found;
    const float(&own)[4] = tiles[tile][step];
    found.set(0, own[0]);
    found.set(1, own[2]);
    found.set(2, own[1]);
    found.set(3, own[3]);
    return found;
  }

  // total S + added. The sum is here, not in the product, whose sums are not rounded to the nearest.
  __device__ __forceinline__ void advance(
      const float (&total)[kLaneKeys], int tile, int step, const float (&added)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      tiles[tile][step][i] = fmaf(total[2 * (i % 2) + step], tiles[tile][step][i], added[i]);
    }
  }
};

}  // namespace aurora
