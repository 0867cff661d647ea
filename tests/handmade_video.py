"""Small real videos whose frames can be told apart."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

N_LEVELS = 32


def picture(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A grey picture, its level that of the index modulo N_LEVELS, whose upper left quarter is black."""
    width, height = size
    pixels = np.full((height, width, 3), 60 + 6 * (index % N_LEVELS), np.uint8)
    pixels[: height // 2, : width // 2] = 0
    return pixels


def index_of(pixels: np.ndarray) -> int:
    """The index, modulo N_LEVELS, of the picture that decoded pixels came from."""
    return round((float(pixels[-8:, -8:].mean()) - 60) / 6)


def write_video(
    path: Path,
    n_frames: int = 25,
    *,
    rate: int = 10,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 48),
    pixel_format: str = "yuv420p",
    times: list[int] | None = None,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write `picture`s; each is shown from `times[i]` on, in frames of `rate`."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pixel_format
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(n_frames):
            frame = av.VideoFrame.from_ndarray(picture(i, size), format="rgb24")
            frame.pts, frame.time_base = times[i] if times else i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
