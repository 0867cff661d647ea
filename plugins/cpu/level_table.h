// The table of a level, of the kernels that were just compiled for it. Included last, inside the level's namespace.
#include "../linear/linear_kernels.h"
#include "../linear/panel_kernels.h"
#include "../attention/attention_kernels.h"
#include "../linear/row_kernels.h"
#include "../linear/activation_kernels.h"
#include "../merge/merge_kernels.h"
#include "../mix/mix_kernels.h"
#include "../wkv/wkv_kernels.h"

extern const Kernels KERNELS;
const Kernels KERNELS = {
    LEVEL_NAME, is_supported, LANES, PANEL_ROWS, wkv6, wkv7,
    prepare_row, multiply_row, quantize_panel, OFFSET != 0, copy_weights, expand_weights, multiply_panel, turn_panel,
    activate_panel, activate_row,
    round_to_weights, add_and_scale, mean_of_heads, softmax_panel,
    normalise_row, best_partners, weigh_row, average_row,
    norm_row, mix_row, tanh_row, decay_row, squared_relu, sigmoid_gate, head_norm_gate_row, multiply_floats,
    multiply_codes,
};
static_assert(PANEL_ROWS <= MAX_PANEL_ROWS && LANES <= MAX_VECTOR_LANES, "callers reserve room for these");
