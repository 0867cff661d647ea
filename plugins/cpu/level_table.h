// The table of a level, of the kernels that were just compiled for it. Included last, inside the level's namespace.
#include "../linear/linear_kernels.h"
#include "../linear/linear_row_kernels.h"
#include "../mix/mix_kernels.h"
#include "../wkv/wkv_kernels.h"

extern const Kernels KERNELS;
const Kernels KERNELS = {
    LEVEL_NAME, is_supported, TILE_ROWS, PANEL_COLUMNS, wkv6, wkv7, quantize, prepare_row, multiply_row,
    expand_codes, pack_panel, multiply_tile,
    norm_row, mix_row, tanh_row, decay_row, squared_relu, sigmoid_gate, head_norm_gate_row, multiply_floats,
    multiply_codes,
};
static_assert(TILE_ROWS <= MAX_TILE_ROWS && PANEL_COLUMNS <= MAX_PANEL_COLUMNS && LANES <= MAX_VECTOR_LANES, "callers reserve room for these");
