"""A bundle written by hand (no torch), and small real videos."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from aurora_export.runtime.session import Aurora
from handmade_bundle import write_bundle
from handmade_video import write_video


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
def make_video(tmp_path_factory):
    """`write_video` into a folder of its own."""
    return lambda name, *args, **options: write_video(tmp_path_factory.mktemp("video") / name, *args, **options)
