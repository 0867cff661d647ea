// Part of the emulation: see cuda_runtime.h. A product of fragments as an Ampere tensor core makes it, or worse.
//
// Which value a lane holds is PTX ISA's "Matrix Fragments for mma.m16n8k8" for .tf32. Operands lose the bits that TF32
// does not have. Sums are exact here, then rounded towards zero: NVIDIA says nothing of the order and rounding of its
// own, and measurements (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021) found truncation.
#pragma once

#include <math.h>

#include "cuda_runtime.h"

namespace aurora {

inline float emulated_tf32(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

inline float towards_zero(double x) {
  const float nearest = static_cast<float>(x);
  return fabs(static_cast<double>(nearest)) > fabs(x) ? nextafterf(nearest, 0.0f) : nearest;
}

inline void mma_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  const emulation::Exchanged& lanes = emulation::exchange(emulation::kProduct, {a[0], a[1], a[2], a[3], b[0], b[1]});
  const unsigned lane = emulation::current % emulation::kLanes, group = lane / 4, quad = lane % 4;
  for (unsigned i = 0; i < 4; ++i) {
    double sum = c[i];
    for (unsigned depth = 0; depth < 8; ++depth) {
      const emulation::Given& of_row = lanes[group * 4 + depth % 4];
      const emulation::Given& of_column = lanes[(2 * quad + i % 2) * 4 + depth % 4];
      sum += static_cast<double>(emulated_tf32(of_row[i / 2 + depth / 4 * 2])) *
             emulated_tf32(of_column[4 + depth / 4]);
    }
    c[i] = towards_zero(sum);
  }
}

}  // namespace aurora
