"""BlockLinear: a linear layer whose weights are integers with a scale per block, in every form that runs it."""

from __future__ import annotations

OP_TYPE = "BlockLinear"
"""Name of the operator in ONNX files, in domain `aurora`."""

INPUTS = {"x": "(..., K)", "codes": "(N, blocks, block_size)", "scales": "(N * blocks)"}
"""Inputs in order -> shape. The order is final: kernels rely on it."""

OUTPUTS = {"y": "(..., N)"}

ATTRIBUTES = ("K", "N", "bits", "block_size")
"""Integers, all required; those of `com.microsoft::MatMulNBits` with the same names."""
