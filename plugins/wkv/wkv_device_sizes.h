// How the kernels cut their work: what the host's checks must know too.
#pragma once

#include <stdint.h>

namespace aurora {

constexpr int kHeadSize = 64;
constexpr int kColumns = 16;  // value columns of a block
constexpr int kSlices = kHeadSize / kColumns;
constexpr int kAlignment = 16;
constexpr int64_t kMaxMatrices = INT32_MAX / kSlices;  // of B * H: a grid has up to 2^31 - 1 blocks

}  // namespace aurora
