"""BlockLinear: a linear layer whose weights are integers with a scale per block; and fused with what is around it."""

from __future__ import annotations

OP_TYPE = "BlockLinear"
"""Name of the operator in ONNX files, in domain `aurora`."""

INPUTS = {"x": "(..., K)", "codes": "(N, blocks, block_size)", "scales": "(N * blocks)"}
"""Inputs in order -> shape. The order is final: kernels rely on it."""

OUTPUTS = {"y": "(..., N)"}

ATTRIBUTES = ("K", "N", "bits", "block_size")
"""Integers, all required; those of `com.microsoft::MatMulNBits` with the same names."""

ADD_OP_TYPE = "BlockLinearAdd"
"""The layer, plus its bias, plus the residual stream."""

ADD_INPUTS = {**INPUTS, "bias": "(N)", "residual": "(..., N)"}

GELU_OP_TYPE, SQUARED_RELU_OP_TYPE = "BlockMlpGelu", "BlockMlpSquaredRelu"
"""Two layers and what is between them: GELU by its tanh form, or the square of the positive part."""

_FIRST = {"codes_1": "(hidden, blocks, block_size_1)", "scales_1": "(hidden * blocks)"}
_SECOND = {"codes_2": "(N, blocks, block_size_2)", "scales_2": "(N * blocks)"}

MLP_INPUTS = {
    GELU_OP_TYPE: {
        "x": "(..., K)",
        **_FIRST,
        "bias_1": "(hidden)",
        **_SECOND,
        "bias_2": "(N)",
        "residual": "(..., N)",
    },
    SQUARED_RELU_OP_TYPE: {"x": "(..., K)", **_FIRST, **_SECOND},
}

MLP_ATTRIBUTES = ("K", "hidden", "N", "bits", "block_size_1", "block_size_2")
"""Integers, all required; `bits` are those of both layers."""

OP_TYPES = (OP_TYPE, ADD_OP_TYPE, GELU_OP_TYPE, SQUARED_RELU_OP_TYPE)
"""All operators of this folder."""
