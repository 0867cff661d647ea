"""A video frame of any size to the square uint8 image that the vision graph takes, the same to the bit everywhere.

The resampling is Pillow's 8-bit bicubic, which SigLIP's image processor uses, written down here so that every
implementation, in any language, gives the same bytes. For one axis, from n_in to n_out pixels:

1. In IEEE doubles, in exactly this order of operations, with no fused multiply-add:
     scale = n_in / n_out;  stretch = max(scale, 1);  support = 2 * stretch   (shrinking widens the kernel)
   and for each output pixel o:
     center = (o + 0.5) * scale
     first = max(trunc(center - support + 0.5), 0);  end = min(trunc(center + support + 0.5), n_in)
     weight[i] = kernel(((i - center) + 0.5) * (1 / stretch))   for i = first .. end - 1
     weight[i] = weight[i] / total                              total: their sum, added in the order of i
   where, with a = -0.5 and x without its sign,
     kernel(x) = ((a + 2) * x - (a + 3)) * x * x + 1            for x < 1
                 (((x - 5) * x + 8) * x - 4) * a                for 1 <= x < 2, and 0 beyond.
2. Fixed point: w[i] = trunc(weight[i] * 2^22 + 0.5), with - 0.5 where weight[i] is negative.
3. pixel = clip((sum of w[i] * in[i] + 2^21) >> 22, 0, 255), in signed 32-bit integers, the shift arithmetic.

The horizontal axis goes first, its result is rounded to uint8, then the vertical one; an axis with n_in = n_out
is left alone. (Pillow 13 takes the vertical axis first where height shrinks much more than width, which only
`squash` of a tall frame does. The order here is that of all Pillow versions before, which models were trained with.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from aurora_export.errors import UsageError

Pixels: TypeAlias = NDArray[np.uint8]
ResizeMode: TypeAlias = Literal["crop", "squash", "pad"]

N_CHANNELS = 3
MAX_SIDE = 16384
"""Of an input frame, in pixels: what the widest video codecs carry."""
MAX_IMAGE_SIZE = 4096

FIXED_POINT_BITS = 22
_KERNEL_SUPPORT = 2.0

# Tiles of the two passes: small enough that a tile's doubles stay in the L2 cache.
_OUTPUTS_PER_BLOCK = 8
_ROWS_PER_BLOCK = 128


def resize_frame(
    frame: NDArray[np.uint8], *, size: int, mode: ResizeMode = "crop", pad_value: tuple[int, int, int] = (127, 127, 127)
) -> Pixels:
    """Resize one RGB frame, uint8 [height, width, 3], to uint8 [S, S, 3], S = size.

    crop: the short side becomes S, the long one S * long // short; of that, S from (n - S) // 2 on.
    squash: both sides become S, whatever the shape.
    pad: first a square of the longer side, the frame in its middle (at (long - short) // 2) on `pad_value`.
    Raises UsageError for a frame of another type or shape, for an empty one and for one over MAX_SIDE.
    """
    frame = _checked_frame(frame)
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_IMAGE_SIZE:
        raise UsageError(f"the image size is {size!r}; it must be a whole number from 1 to {MAX_IMAGE_SIZE}")
    if mode == "pad":
        frame = _padded_to_square(frame, pad_value)
    elif mode not in get_args(ResizeMode):
        raise UsageError(f"unknown resize mode {mode!r}", hint=f"modes: {', '.join(get_args(ResizeMode))}")

    height, width = frame.shape[:2]
    full_height, full_width = size, size
    if mode == "crop":
        # The integer quotient equals int(size * long / short) in doubles, for all sides allowed here.
        short = min(height, width)
        full_height, full_width = size * height // short, size * width // short
    return resize_and_crop(
        frame,
        full_size=(full_height, full_width),
        top=(full_height - size) // 2,
        left=(full_width - size) // 2,
        size=(size, size),
    )


def resize_and_crop(
    frame: NDArray[np.uint8], *, full_size: tuple[int, int], top: int, left: int, size: tuple[int, int]
) -> Pixels:
    """Resize uint8 [height, width, 3] to full_size (height, width), and return rows top.. and columns left.. of it.

    size: (height, width) of the part returned. Only that part is computed; it equals resizing all, then cropping.
    """
    rows = _axis_blocks(frame.shape[0], full_size[0], top, top + size[0])
    columns = _axis_blocks(frame.shape[1], full_size[1], left, left + size[1])
    # The vertical pass reads these input rows only, so the horizontal one need not make others.
    first_row, end_row = rows[0].first, rows[-1].end
    wide = frame[first_row:end_row]
    if frame.shape[1] == full_size[1]:
        narrow = wide[:, left : left + size[1]]
    else:
        narrow = _resample_columns(wide, columns, size[1])
    if frame.shape[0] == full_size[0]:
        return narrow.copy()  # it may be a view of the caller's frame
    return _resample_rows(narrow, rows, size[0], first_row)


def resample_weights(n_in: int, n_out: int, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps 1 and 2 of the module's algorithm, for output pixels start .. stop - 1 of an axis.

    Returns first, shape (stop - start,), the first input pixel of each, and the fixed-point weights, shape
    (stop - start, taps), of the input pixels from there on; those beyond an output pixel's last one are 0.
    """
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = _KERNEL_SUPPORT * stretch
    centers = (np.arange(start, stop) + 0.5) * scale
    first = np.maximum(np.trunc(centers - support + 0.5), 0).astype(np.int64)
    end = np.minimum(np.trunc(centers + support + 0.5), n_in).astype(np.int64)
    inputs = first[:, None] + np.arange((end - first).max())
    weights = _bicubic_kernel(((inputs - centers[:, None]) + 0.5) * (1.0 / stretch))
    weights[inputs >= end[:, None]] = 0
    # cumsum adds from left to right, as a plain loop does; sum would add in pairs and round differently.
    weights /= np.cumsum(weights, axis=1)[:, -1:]
    fixed = weights * (1 << FIXED_POINT_BITS)
    return first, np.trunc(fixed + np.where(fixed < 0, -0.5, 0.5)).astype(np.int64)


def _bicubic_kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
    a = -0.5
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


class _Block(NamedTuple):
    """Some neighbouring output pixels of an axis, and the input pixels first .. end - 1 that they need."""

    first: int
    end: int
    start: int
    stop: int
    matrix: NDArray[np.float64]
    """Fixed-point weights, [stop - start, end - first]; outputs are counted from the start of the crop."""


# Cached: every frame of a video has the same tables. A 1080p to 384 pair holds 0.5 MB.
@lru_cache(maxsize=8)
def _axis_blocks(n_in: int, n_out: int, start: int, stop: int) -> tuple[_Block, ...]:
    if n_in == n_out:
        return (_Block(start, stop, 0, stop - start, np.empty((0, 0))),)
    firsts, weights = resample_weights(n_in, n_out, start, stop)
    blocks = []
    for low in range(0, stop - start, _OUTPUTS_PER_BLOCK):
        high = min(low + _OUTPUTS_PER_BLOCK, stop - start)
        first = int(firsts[low])
        end = min(int(firsts[high - 1]) + weights.shape[1], n_in)
        matrix = np.zeros((high - low, end - first))
        for output in range(low, high):
            offset = int(firsts[output]) - first
            n_taps = min(weights.shape[1], end - first - offset)
            matrix[output - low, offset : offset + n_taps] = weights[output, :n_taps]
        matrix.flags.writeable = False
        blocks.append(_Block(first, end, low, high, matrix))
    return tuple(blocks)


# Doubles, so that a matrix product does step 3: every product and partial sum is an integer far below 2^53, hence
# exact in any order of summation, on any BLAS, with any number of threads.


def _resample_columns(frame: Pixels, blocks: tuple[_Block, ...], n_columns: int) -> Pixels:
    """uint8 [rows, width, 3] to uint8 [rows, n_columns, 3]."""
    n_rows = frame.shape[0]
    flat = np.ascontiguousarray(frame).reshape(n_rows, -1)
    result = np.empty((n_rows, n_columns * N_CHANNELS), np.uint8)
    for block in blocks:
        # Channels stay interleaved: each weight becomes weight * I. Three times the products, but no transposes.
        matrix = np.kron(block.matrix.T, np.eye(N_CHANNELS))
        for top in range(0, n_rows, _ROWS_PER_BLOCK):
            rows = slice(top, top + _ROWS_PER_BLOCK)
            pixels = flat[rows, block.first * N_CHANNELS : block.end * N_CHANNELS].astype(np.float64)
            result[rows, block.start * N_CHANNELS : block.stop * N_CHANNELS] = _rounded(pixels @ matrix)
    return result.reshape(n_rows, n_columns, N_CHANNELS)


def _resample_rows(frame: Pixels, blocks: tuple[_Block, ...], n_rows: int, first_row: int) -> Pixels:
    """uint8 [rows first_row.., width, 3] to uint8 [n_rows, width, 3]."""
    width = frame.shape[1]
    flat = np.ascontiguousarray(frame).reshape(frame.shape[0], -1)
    result = np.empty((n_rows, width * N_CHANNELS), np.uint8)
    for block in blocks:
        pixels = flat[block.first - first_row : block.end - first_row].astype(np.float64)
        result[block.start : block.stop] = _rounded(block.matrix @ pixels)
    return result.reshape(n_rows, width, N_CHANNELS)


def _rounded(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fixed-point sums to 0 <= x < 256, in place; the caller's cast to uint8 cuts the fraction off (the shift)."""
    sums += 1 << (FIXED_POINT_BITS - 1)
    sums *= 2.0**-FIXED_POINT_BITS
    return np.clip(sums, 0, 255, out=sums)


def _padded_to_square(frame: Pixels, pad_value: tuple[int, int, int]) -> Pixels:
    if len(pad_value) != N_CHANNELS or any(not 0 <= channel <= 255 for channel in pad_value):
        raise UsageError(f"pad_value is {pad_value!r}; it must be three whole numbers from 0 to 255")
    height, width = frame.shape[:2]
    if height == width:
        return frame
    side = max(height, width)
    square = np.empty((side, side, N_CHANNELS), np.uint8)
    square[:] = pad_value
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = frame
    return square


def _checked_frame(frame: NDArray[np.uint8]) -> Pixels:
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8:
        kind = f"an array of {frame.dtype}" if isinstance(frame, np.ndarray) else f"a {type(frame).__name__}"
        raise UsageError(
            f"a frame must be a numpy array of uint8, not {kind}", hint="pass RGB bytes, 0 to 255, unscaled"
        )
    if frame.ndim != 3 or frame.shape[2] != N_CHANNELS:
        raise UsageError(
            f"a frame must have shape (height, width, 3), not {frame.shape}", hint="pass RGB with the channels last"
        )
    height, width = frame.shape[:2]
    if not 1 <= height <= MAX_SIDE or not 1 <= width <= MAX_SIDE:
        raise UsageError(f"a frame of {width} x {height} pixels; each side must be from 1 to {MAX_SIDE}")
    return frame
