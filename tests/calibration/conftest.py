"""A bundle written by hand whose products stand under the names of real layers: no torch, and a pass takes no time."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from aurora_export.calibration.scales_file import FORMAT, Data, Residual, Scales, TensorRange
from handmade_bundle import FILES, rewrite_manifest, write_bundle
from handmade_video import write_video

RENAMED = {
    "vision": {"projection": "projector.model.0.weight.transposed"},
    "language": {
        "head_of_shift": "language.blocks.0.ffn.key.weight.transposed",
        "head_of_wkv": "language.head.weight.transposed",
    },
}
SITES = {"vision": ["projector.fc1"], "language": ["language.0.ffn.k", "language.head"]}


def write_named_bundle(folder: Path, *, seed: int = 0) -> Path:
    """A handmade bundle with SITES; `next_ffn_shift` stands for the residual stream."""
    write_bundle(folder, seed=seed)
    for graph, names in RENAMED.items():
        model = onnx.load(folder / FILES[graph])
        for tensor in model.graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for node in model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        onnx.save(model, folder / FILES[graph])
    rewrite_manifest(folder, layer_outputs={"vision": [], "language": ["next_ffn_shift"]})
    return folder


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
