// Products of 16 x 8 by 8 x 8 on tensor cores, and float32 in parts that they take.
//
// TF32 has 8 bits of exponent and 10 of fraction: float16 and bfloat16 are exact in it, a float32
// is one part rounded (relative error up to 2^-11) or the sum of two (2^-21).
#pragma once

#include <cuda_runtime.h>
#include <stdint.h>

#ifndef __CUDACC__
#include <emulated_tensor_core.h>  // mma_tf32 of the tests' emulation
#endif

namespace aurora {

#ifdef __CUDACC__
// c += a b by the whole warp. With lane = 4 * group + quad, a lane holds
//   a: (row group, depth quad), (group + 8, quad), (group, quad + 4), (group + 8, quad + 4)
//   b: (depth quad, column group), (quad + 4, group)
//   c: (row group, column 2 * quad), (group, 2 * quad + 1), (group + 8, 2 * quad), (group + 8, 2 * quad + 1)
// (PTX ISA, "Matrix Fragments for mma.m16n8k8"). Tensor cores ignore the bits of a and b that TF32 does
// not have; CUTLASS (round_half_ulp_truncate) and Triton rely on that too.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(  // or it might be moved to where part of the warp is
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}
#endif

constexpr uint32_t kTf32Bits = 0xffffe000u;

// To the nearest TF32, halves away from zero.
__device__ __forceinline__ float rounded_tf32(float x) {
  return __uint_as_float((__float_as_uint(x) + 0x1000u) & kTf32Bits);
}

__device__ __forceinline__ float truncated_tf32(float x) { return __uint_as_float(__float_as_uint(x) & kTf32Bits); }

// Operand of a product: kSize values of a lane, each the sum of kParts TF32 values, the large one first.
template <int kSize, int kParts>
struct Operand {
  static_assert(kParts == 1 || kParts == 2, "rounded, or in two parts");
  float parts[kParts][kSize];

  __device__ __forceinline__ void set(int i, float x) {
    if constexpr (kParts == 1) {
      parts[0][i] = rounded_tf32(x);
    } else {
      parts[0][i] = truncated_tf32(x);
      parts[1][i] = x - parts[0][i];
    }
  }

  // For an x that is exact in TF32.
  __device__ __forceinline__ void set_exact(int i, float x) {
    parts[0][i] = x;
    if constexpr (kParts == 2) parts[1][i] = 0.0f;
  }
};

// c += a b, small terms first; the product of two small parts is under float32's rounding and left out.
template <int kPartsA, int kPartsB>
__device__ __forceinline__ void multiply_add(
    float (&c)[4], const Operand<4, kPartsA>& a, const Operand<2, kPartsB>& b) {
  if constexpr (kPartsB == 2) mma_tf32(c, a.parts[0], b.parts[1]);
  if constexpr (kPartsA == 2) mma_tf32(c, a.parts[1], b.parts[0]);
  mma_tf32(c, a.parts[0], b.parts[0]);
}

}  // namespace aurora
