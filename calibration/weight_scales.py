"""The weights of linear layers as small integers or small floats, with a scale for each output or block of inputs.

    weight (K, N) = codes (K, N) * scales (K / block, N), each row of scales repeated for the inputs of its block

Symmetric: no zero points. The scale is that of the largest weight that shares it; where the type is coarse, int4, a
smaller one is looked for that makes the squared error less.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np

from aurora_export.calibration.recipes import LARGEST, WeightType

DTYPES: dict[str, np.dtype] = {
    "int8": np.dtype(np.int8),
    "fp8": np.dtype(ml_dtypes.float8_e4m3fn),
    "int4": np.dtype(ml_dtypes.int4),
}
"""Type -> that of the codes."""

SEARCHED = {"int4": np.arange(0.7, 1.0, 0.05, dtype=np.float32)}
"""Type -> shares of the largest weight that are tried as the end of the scale, beside the whole."""

COLUMNS_AT_ONCE = 2048

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)

Rounding = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""weight (K, N) and its scales (K / block, N) -> codes (K, N)"""


def block_for(n_inputs: int, block: int | None) -> int:
    """The inputs that share a scale: `block`, halved until it divides the inputs; all of them for None."""
    if block is None:
        return n_inputs
    while block > 1 and n_inputs % block:
        block //= 2
    return block


def quantize_weight(
    weight: np.ndarray, kind: WeightType, block: int | None = None, *, rounding: Rounding | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and scales of the weight of a linear layer.

    weight: float, shape (K, N), or (K, N) with further axes of inputs flattened into K.
    block: inputs that share a scale, a divisor of K; None: all.  rounding: in the place of rounding to the nearest.
    Returns codes, in the type of DTYPES, shape (K, N); scales, float32, shape (K / block, N), 1 where all is zero.
    Raises ValueError if a weight is not finite, or if the block divides no K.
    """
    n_inputs, n_outputs = weight.shape
    block = block or n_inputs
    if n_inputs % block:
        raise ValueError(f"a block of {block} does not divide {n_inputs} inputs")
    codes = np.empty((n_inputs, n_outputs), DTYPES[kind])
    scales = np.empty((n_inputs // block, n_outputs), np.float32)
    for start in range(0, n_outputs, COLUMNS_AT_ONCE):
        columns = slice(start, min(start + COLUMNS_AT_ONCE, n_outputs))
        part = np.ascontiguousarray(weight[:, columns], np.float32)
        scales[:, columns] = scales_of(part, kind, block)
        codes[:, columns] = (rounding or nearest(kind))(part, scales[:, columns])
    return codes, scales


def scales_of(weight: np.ndarray, kind: WeightType, block: int) -> np.ndarray:
    """float32, shape (K / block, N), of a weight of shape (K, N)."""
    blocks = weight.reshape(-1, block, weight.shape[1])
    peaks = np.abs(blocks).max(axis=1)
    if not np.isfinite(peaks).all():
        raise ValueError("a weight is not finite: it has no code")
    scales = _usable(peaks / np.float32(LARGEST[kind]))
    best = None
    for share in SEARCHED.get(kind, ()):
        if best is None:
            best = _squared_error(blocks, scales, kind)
        tried = _usable(peaks * (share / np.float32(LARGEST[kind])))
        error = _squared_error(blocks, tried, kind)
        better = error < best
        scales, best = np.where(better, tried, scales), np.where(better, error, best)
    return scales


def _usable(scales: np.ndarray) -> np.ndarray:
    """Below the smallest normal number a scale has few digits, or is 0; such weights round to 0 by the scale 1."""
    return np.where(scales < SMALLEST_SCALE, np.float32(1), scales)


def _squared_error(blocks: np.ndarray, scales: np.ndarray, kind: WeightType) -> np.ndarray:
    """Of each block, shape (K / block, N)."""
    codes = round_codes(blocks / scales[:, None], kind).astype(np.float32)
    return np.square(codes * scales[:, None] - blocks).sum(axis=1)


def round_codes(values: np.ndarray, kind: str) -> np.ndarray:
    """Numbers in units of the scale to codes, any shape: the nearest, ties to even, and the ends beyond them."""
    end = np.float32(LARGEST[kind])
    clipped = np.clip(values, -end, end)
    if kind == "fp8":
        return clipped.astype(DTYPES[kind])
    return np.rint(clipped).astype(np.int8).astype(DTYPES[kind])


def nearest(kind: WeightType) -> Rounding:
    """Rounds each weight by itself."""

    def rounding(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
        blocks = weight.reshape(len(scales), -1, weight.shape[1])
        return round_codes(blocks / scales[:, None], kind).reshape(weight.shape)

    return rounding


def dequantize(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32, shape (K, N), of codes (K, N) and scales (K / block, N)."""
    blocks = codes.astype(np.float32).reshape(len(scales), -1, codes.shape[1])
    return (blocks * scales[:, None]).reshape(codes.shape)
