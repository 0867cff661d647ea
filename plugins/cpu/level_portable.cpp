// Whatever the compiler makes for the oldest machine of the architecture: SSE2, plain NEON, or no vectors at all.
#include <cmath>
#include <cstring>

#include "levels.h"

namespace aurora::portable {

#define VECTOR_BYTES 16
#include "simd.h"

constexpr const char* LEVEL_NAME = "portable";
constexpr std::size_t TILE_OUTPUTS = 4, PANEL_VECTORS = 2, REGISTERS = 16;
constexpr std::int32_t OFFSET = 0;

static bool is_supported() { return true; }

// Signed bytes, one for a lane.
AURORA_INLINE Ints widen(const std::int8_t* from) {
    return Ints{from[0], from[1], from[2], from[3]};
}

AURORA_INLINE Ints dot4(Ints sums, Ints weights, Ints activations) {
    // Bytes 0 to 3 of a lane, lowest first, each with its sign.
    sums += ((weights << 24) >> 24) * ((activations << 24) >> 24);
    sums += ((weights << 16) >> 24) * ((activations << 16) >> 24);
    sums += ((weights << 8) >> 24) * ((activations << 8) >> 24);
    return sums + (weights >> 24) * (activations >> 24);
}

AURORA_INLINE Ints dot8(Ints sums, Ints weights, Ints even, Ints odd) {
    return dot4(dot4(sums, low_halves(weights), even), high_halves(weights), odd);
}

#include "level_table.h"

}  // namespace aurora::portable
