"""A bundle with layers to calibrate, clips, and scales of no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_export.calibration.scales_file import FORMAT, Data, Residual, Scales, TensorRange
from handmade_video import write_video
from named_bundle import write_named_bundle


@pytest.fixture(scope="session")
def named_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only."""
    return write_named_bundle(tmp_path_factory.mktemp("named") / "named.aurora")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of three sizes and several lengths, and a file that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    for number, (n_frames, size) in enumerate([(5, (64, 48)), (9, (32, 32)), (3, (48, 64)), *[(4, (64, 48))] * 3]):
        write_video(folder / f"{number}.mp4", n_frames, size=size)
    (folder / "notes.txt").write_text("not a clip")
    return folder


@pytest.fixture
def scales() -> Scales:
    """Of no model."""
    return Scales(
        format=FORMAT,
        graphs={"vision": "0" * 64, "language": "1" * 64},
        data=Data(digest="0" * 64, clips=2, frames=16, tokens=100, steps=10),
        method="max",
        residual=Residual(maximum=3, divisor=1),
        tensors={"language.head": TensorRange(int8=2.5, fp8=3, maximum=3)},
    )
