"""BlockLinear in plain torch: the truth that every other implementation is tested against."""

from __future__ import annotations

import torch
from torch import Tensor

ZERO_CODE = {8: 128, 4: 8}
"""Bits -> the code of a weight of 0: codes are unsigned, weights are not."""

LARGEST_CODE = 127
"""Of an activation: -127 to 127, so that the largest of a block has no rounding error."""


def dequantize(codes: Tensor, scales: Tensor, n_inputs: int, *, bits: int = 8) -> Tensor:
    """Integers to the weight that they stand for.

    codes: uint8, shape (N, blocks, block_size * bits / 8), at 4 bits two in a byte, the first in its low half.
    scales: float32, shape (N * blocks).  n_inputs: K.
    Returns shape (N, K): what passes K in the last block is left out.
    """
    if bits == 4:
        codes = torch.stack([codes & 15, codes >> 4], -1).flatten(-2)
    blocks = (codes.float() - ZERO_CODE[bits]) * scales.view(*codes.shape[:2], 1)
    return blocks.flatten(1)[:, :n_inputs]


def round_activations(x: Tensor, block_size: int) -> Tensor:
    """Round to 8 bits, by blocks along the last axis with the scale of the largest magnitude. Any shape (..., K)."""
    n_inputs = x.shape[-1]
    blocks = torch.nn.functional.pad(x, (0, -n_inputs % block_size)).unflatten(-1, (-1, block_size))
    scales = blocks.abs().amax(-1, keepdim=True) / LARGEST_CODE
    rounded = torch.where(scales > 0, torch.round(blocks / torch.where(scales > 0, scales, 1)), 0) * scales
    return rounded.flatten(-2)[..., :n_inputs]


def block_linear(x: Tensor, codes: Tensor, scales: Tensor, *, bits: int = 8) -> Tensor:
    """y = x W^T with activations rounded to 8 bits, whatever the weights have.

    x: float32, shape (..., K).  codes and scales as `dequantize` takes them.  Returns float32, shape (..., N).
    """
    weight = dequantize(codes, scales, x.shape[-1], bits=bits)
    return round_activations(x, codes.shape[2] * 8 // bits) @ weight.T
