"""A state's arrays in fewer bytes, without loss: the bytes of all values by significance, then zlib.

The high bytes of floats, sign and exponent, repeat; the low ones are noise. Side by side, the former compress.
Chosen by benchmarks/bench_states.py: differences to a checkpoint of a minute before save less than one per cent, and
would tie every checkpoint to another one; lzma saves 3 % more in several times the time.
"""

from __future__ import annotations

import zlib
from math import prod

import numpy as np

ZLIB_LEVEL = 6
VALUE_BYTES = 4


def pack(array: np.ndarray) -> np.ndarray:
    """float32 of any shape to bytes: uint8, shape (n,)."""
    planes = np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).reshape(-1, VALUE_BYTES).T
    return np.frombuffer(zlib.compress(planes.tobytes(), ZLIB_LEVEL), np.uint8)


def unpack(data: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 array of `pack`, bit for bit. Raises ValueError if the bytes are not one of exactly this shape.

    Never makes more bytes than the shape needs, whatever the data would expand to.
    """
    n_bytes = VALUE_BYTES * prod(shape)
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data.tobytes(), n_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(content) != n_bytes or not stream.eof or stream.unused_data:
        raise ValueError(f"its content is not the {n_bytes} bytes of the shape {shape}")
    planes = np.frombuffer(content, np.uint8).reshape(VALUE_BYTES, -1)
    return planes.T.copy().view("<f4").astype(np.float32, copy=False).reshape(shape)
