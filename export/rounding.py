"""Weights to integers: how a matrix is rounded, by blocks along its inputs, each with a scale.

    weight (N, K) = (codes (N, blocks, block_size) - zero code) * scales (N, blocks), without the columns past K

The zero code is in the middle, 2^(bits - 1), so that no zero points are stored.

At 8 bits the scale is that of the largest weight of the block: looking for a better one takes less than a hundredth
off the error, and a pass over the weights for each candidate. At 4 bits it is searched for. The largest weight is put
at the far end of the codes, of which there is one more on the negative side, whatever its sign: scales may be negative.
Clipping it a little makes the steps of all others smaller; each candidate gets the scale of least squares for its
codes, and the one with the smallest squared error wins. For normal weights that is a sixth less than the error of the
largest weight's scale, and less than that of zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import torch

Rounding: TypeAlias = Callable[[str, np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]
"""Name of a weight, the weight (N, K), bits, block size -> codes and scales, as `round_weight` returns them."""

BITS = (8, 4)

CHUNK = 1 << 17
"""Weights that are rounded at a time: their temporaries stay in a core's cache."""

CLIPPING = tuple(1.1 - 0.04 * i for i in range(11))
"""The codes' far end over the largest weight of a block, at 4 bits: from a little beyond it to 0.7 of it."""


def round_weight(name: str, weight: np.ndarray, bits: int, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Round the weight of a linear layer by itself: what is used where no calibrated rounding is given.

    name: for errors.  weight: float32, shape (N, K); read in chunks of rows, best if rows are contiguous.
    Returns codes, uint8 (N, blocks, block_size), the zero code for a weight of 0 and where the last block passes K;
    and scales, float32 (N * blocks), 1 for a block of zeros. Raises ValueError if a weight is not finite.
    """
    round_blocks = {8: _to_nearest, 4: _by_least_squares}[bits]
    n_rows, n_columns = weight.shape
    n_blocks = -(-n_columns // block_size)
    codes = np.empty((n_rows, n_blocks, block_size), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    for rows, blocks in _chunks(weight, n_blocks, block_size):
        scales[rows] = round_blocks(blocks, _extremes(name, rows, blocks, bits))
        blocks += 1 << (bits - 1)
        codes[rows] = blocks
    return codes, scales.reshape(-1)


def scale_blocks(name: str, weight: np.ndarray, bits: int, block_size: int) -> np.ndarray:
    """The scales that `round_weight` gives, float32 (N, blocks), for codes that are chosen in another way."""
    n_blocks = -(-weight.shape[1] // block_size)
    scales = np.empty((len(weight), n_blocks), np.float32)
    for rows, blocks in _chunks(weight, n_blocks, block_size):
        extremes = _extremes(name, rows, blocks, bits)
        # At 4 bits the search is over codes: they come with it.
        scales[rows] = _scales_of_largest(extremes) if bits == 8 else _by_least_squares(blocks, extremes)
    return scales


def pack_codes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (N, blocks, block_size) as they lie in a file: uint8 (N, blocks, block_size * bits / 8), low bits first."""
    return codes if bits == 8 else codes[..., ::2] | codes[..., 1::2] << 4


def unpack_codes(stored: np.ndarray, bits: int) -> np.ndarray:
    """The opposite of `pack_codes`: uint8 (N, blocks, block_size)."""
    return stored if bits == 8 else np.stack([stored & 15, stored >> 4], -1).reshape(*stored.shape[:-1], -1)


def _extremes(name: str, rows: slice, blocks: np.ndarray, bits: int) -> np.ndarray:
    """The weight of the largest magnitude in each block, shape (rows, n_blocks).

    name, rows, bits: for the ValueError that is raised if a weight is not finite.
    """
    # By torch, whose reduction of short rows is several times faster than that of numpy.
    low, high = (peaks.numpy() for peaks in torch.aminmax(torch.from_numpy(blocks), dim=-1))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        place = f"a weight in rows {rows.start} to {rows.stop - 1} of {name}"
        raise ValueError(f"{place} is not finite: it has no {bits}-bit code")
    return np.where(-low > high, low, high)


def _scales_of_largest(extremes: np.ndarray) -> np.ndarray:
    """The scales at 8 bits, shape (rows, n_blocks), as of `_extremes`."""
    peaks = np.abs(extremes)
    # Below the smallest normal number a scale has few digits, or is 0; such weights round to 0 by the scale 1.
    return np.where(peaks < 127 * np.finfo(np.float32).tiny, np.float32(1), peaks / 127)


def _to_nearest(blocks: np.ndarray, extremes: np.ndarray) -> np.ndarray:
    """Make blocks (rows, n_blocks, block_size) integers of -127 to 127, in place; returns their scales.

    extremes: as of `_extremes`.
    """
    scales = _scales_of_largest(extremes)
    blocks /= scales[..., None]
    np.rint(blocks, out=blocks)
    return scales


def _by_least_squares(blocks: np.ndarray, extremes: np.ndarray) -> np.ndarray:
    """Make blocks integers of -8 to 7, in place; returns their scales. Shapes as in `_to_nearest`."""
    is_zero = np.abs(extremes) < 16 * np.finfo(np.float32).tiny
    # From here on the extreme weight of every block is 1: no product overflows, and all share the candidates.
    unit = torch.from_numpy(blocks).div_(torch.from_numpy(np.where(is_zero, np.float32(np.inf), extremes))[..., None])
    best = torch.full(extremes.shape, -1.0)
    steps = torch.full(extremes.shape, -CLIPPING[0] / 8)
    for far_end in CLIPPING:
        codes = (unit * (-8 / far_end)).round_().clamp_(-8, 7)
        # Of the scale of least squares, products over squares, the error is |unit|^2 - products^2 / squares.
        products, squares = (unit * codes).sum(-1), codes.square_().sum(-1)
        gain = products * products / squares
        is_better = gain > best
        best[is_better] = gain[is_better]
        steps[is_better] = -far_end / 8
    codes = (unit / steps[..., None]).round_().clamp_(-8, 7)
    scales = ((unit * codes).sum(-1) / codes.square().sum(-1)).numpy() * extremes
    blocks[...] = codes.numpy()
    return np.where(is_zero, np.float32(1), scales)


def _chunks(weight: np.ndarray, n_blocks: int, block_size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a range of rows and a copy of them, shape (rows, n_blocks, block_size), 0 past the last column.

    The copy may be changed, and is overwritten by the next one.
    """
    n_rows, n_columns = weight.shape
    step = min(n_rows, max(1, CHUNK // (n_blocks * block_size)))
    buffer = np.zeros((step, n_blocks * block_size), np.float32)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        chunk = buffer[: rows.stop - rows.start]
        chunk[:, :n_columns] = weight[rows]
        # The consumer of the chunk before has made something of its zeros.
        chunk[:, n_columns:] = 0
        yield rows, chunk.reshape(-1, n_blocks, block_size)
