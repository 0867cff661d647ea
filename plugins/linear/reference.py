"""BlockLinear in plain torch: the truth that every other implementation is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

ZERO_CODE = 128
"""The code of a weight of 0 at 8 bits: codes are unsigned, weights are not."""

LARGEST_CODE = 127
"""Of an activation: -127 to 127, so that the largest of a block has no rounding error."""


def dequantize(codes: Tensor, scales: Tensor, n_inputs: int) -> Tensor:
    """Integers to the weight that they stand for.

    codes: uint8, shape (N, blocks, block_size).  scales: float32, shape (N * blocks).  n_inputs: K.
    Returns shape (N, K): what passes K in the last block is left out.
    """
    blocks = (codes.float() - ZERO_CODE) * scales.view(*codes.shape[:2], 1)
    return blocks.flatten(1)[:, :n_inputs]


def round_activations(x: Tensor, block_size: int) -> Tensor:
    """Round to 8 bits, by blocks along the last axis with the scale of the largest magnitude. Any shape (..., K)."""
    n_inputs = x.shape[-1]
    blocks = torch.nn.functional.pad(x, (0, -n_inputs % block_size)).unflatten(-1, (-1, block_size))
    scales = blocks.abs().amax(-1, keepdim=True) / LARGEST_CODE
    rounded = torch.where(scales > 0, torch.round(blocks / torch.where(scales > 0, scales, 1)), 0) * scales
    return rounded.flatten(-2)[..., :n_inputs]


def block_linear(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """y = x W^T with rounded activations.

    x: float32, shape (..., K).  codes: uint8, shape (N, blocks, block_size).  scales: float32, shape (N * blocks).
    Returns float32, shape (..., N).
    """
    return round_activations(x, codes.shape[2]) @ dequantize(codes, scales, x.shape[-1]).T
