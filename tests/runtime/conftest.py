"""A bundle written by hand (no torch), and small real videos."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from aurora_export.runtime.session import Aurora
from handmade_bundle import write_bundle

MakeVideo = Callable[..., Path]
N_LEVELS = 32


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    """Read-only; `bundle_copy` may be damaged."""
    return write_bundle(tmp_path_factory.mktemp("runtime") / "handmade.aurora")


@pytest.fixture
def bundle_copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy.aurora"))


@pytest.fixture
def aurora(bundle):
    with Aurora.open(bundle, threads=1) as session:
        yield session


@pytest.fixture
def frames() -> list[np.ndarray]:
    """Eight pictures of different sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8) for i in range(8)]


@pytest.fixture(scope="session")
def make_video(tmp_path_factory) -> MakeVideo:
    """Writes a video of `picture`s, each shown from `times[i]` on (in frames of `rate`)."""

    def make(
        name: str,
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
        path = tmp_path_factory.mktemp("video") / name
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

    return make


def picture(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A grey picture, its level that of the index modulo N_LEVELS, whose upper left quarter is black."""
    width, height = size
    pixels = np.full((height, width, 3), 60 + 6 * (index % N_LEVELS), np.uint8)
    pixels[: height // 2, : width // 2] = 0
    return pixels


@pytest.fixture(scope="session")
def index_of() -> Callable[[np.ndarray], int]:
    """The index, modulo N_LEVELS, of the frame that pixels of `make_video` came from."""
    return lambda pixels: round((float(pixels[-8:, -8:].mean()) - 60) / 6)
