// NEON with the dot product extension: ARMv8.2 and newer (Cortex-A76, Neoverse N1, Orin, Apple).
#if defined(__aarch64__)
#include <arm_neon.h>
#if defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <cmath>
#include <cstring>

#include "levels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace aurora::neon {

#define VECTOR_BYTES 16
#include "simd.h"

constexpr const char* LEVEL_NAME = "neon-dotprod";
constexpr std::size_t TILE_OUTPUTS = 10, PANEL_VECTORS = 2, REGISTERS = 32;
constexpr std::int32_t OFFSET = 0;

static bool is_supported() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
    return true;  // every 64-bit machine of Apple has it
#endif
}

// Signed bytes, one for a lane.
AURORA_INLINE Ints widen(const std::int8_t* from) {
    return (Ints)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(load_quad(from))))));
}

AURORA_INLINE Ints dot4(Ints sums, Ints weights, Ints activations) {
    return (Ints)vdotq_s32((int32x4_t)sums, (int8x16_t)weights, (int8x16_t)activations);
}

AURORA_INLINE Ints dot8(Ints sums, Ints weights, Ints even, Ints odd) {
    return dot4(dot4(sums, low_halves(weights), even), high_halves(weights), odd);
}

#include "level_table.h"

}  // namespace aurora::neon

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
