"""Two bundles of tiny random models, each built once per session; what tests damage are copies of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

import tiny
from aurora_export.calibration.calibrate import Method, calibrate
from aurora_export.calibration.clips import Showing, read_clips
from aurora_export.cli.progress import Progress
from aurora_export.config import PROFILES
from aurora_export.export import bundle as bundle_module
from aurora_export.export.bundle import build_bundle
from aurora_export.export.graphs import Graph, build_graphs
from aurora_export.export.quantizer import Quantizer
from aurora_export.manifest import Manifest, Precision
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.checkpoint import LoadedCheckpoint
from handmade_video import write_video

SMALL = {"vision": {"n_layers": 3, "layers_used": 2}, "language": {"n_layers": 2}}
"""Exports take seconds a layer."""


def load(model: AuroraModel, folder: Path) -> LoadedCheckpoint:
    """What `load_checkpoint` would return for a model."""
    return LoadedCheckpoint(
        config=model.config,
        model=model,
        vocabulary_path=tiny.write_vocabulary(folder / "rwkv_vocab.txt"),
        files=(),
        description={"layout": "made by a test"},
        warnings=("a warning",),
    )


@dataclass(frozen=True)
class Built:
    """A finished bundle and what it was made from."""

    path: Path
    manifest: Manifest
    model: AuroraModel
    loaded: LoadedCheckpoint

    @property
    def graphs(self) -> dict[str, Graph]:
        return build_graphs(self.model)


def _build(folder: Path, model: AuroraModel) -> Built:
    loaded = load(model, folder)
    return Built(folder / "tiny.aurora", build_bundle(loaded, folder / "tiny.aurora"), model, loaded)


@pytest.fixture(scope="session")
def built6(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """RWKV-6, the profile `released`."""
    return _build(tmp_path_factory.mktemp("built6"), tiny.tiny_model(6, **SMALL))


@pytest.fixture(scope="session")
def built7(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """RWKV-7, merging as in the profile `paper`: drops nothing, sets token 0 apart, attends proportionally."""
    return _build(tmp_path_factory.mktemp("built7"), tiny.tiny_model(7, **SMALL, merge=PROFILES["paper"]["merge"]))


@pytest.fixture(params=[6, 7], ids=["RWKV-6", "RWKV-7"])
def built(request: pytest.FixtureRequest) -> Built:
    """Both bundles, one after the other; not to be changed."""
    return request.getfixturevalue(f"built{request.param}")


@pytest.fixture
def bundle_copy(built6: Built, tmp_path: Path) -> Path:
    """A copy of the RWKV-6 bundle, to be damaged."""
    return Path(shutil.copytree(built6.path, tmp_path / "copy.aurora"))


@pytest.fixture
def exported_before(built6: Built, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a build copy the RWKV-6 graphs instead of exporting; returns the stand-in for `export_onnx`."""

    def copy_graph(
        graph: Graph,
        path: Path,
        _progress: object = None,
        *,
        precision: Precision = "fp32",
        quantizer: None = None,
        feedback: None = None,
    ) -> None:
        assert precision == "fp32" and quantizer is None and feedback is None
        for source in built6.path.glob(f"onnx/{graph.name}.onnx*"):
            shutil.copyfile(source, path.with_name(source.name))

    monkeypatch.setattr(bundle_module, "export_onnx", copy_graph)
    return copy_graph


@pytest.fixture(scope="session")
def scales6(built6: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scale file of the RWKV-6 bundle, with smoothing and second moments."""
    folder = tmp_path_factory.mktemp("scales6")
    (folder / "clips").mkdir()
    for number in range(2):
        write_video(folder / f"clips/{number}.mp4", 3 + number)
    calibrate(
        built6.path,
        read_clips(folder / "clips"),
        folder / "scales.json",
        progress=Progress(),
        showing=Showing(num_frames=2, answer_tokens=4),
        method=Method(smoothing=0.5, moments_of=("language.*",)),
    )
    return folder / "scales.json"


@pytest.fixture
def quantized_before(built6: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a build quantize the RWKV-6 graphs that were exported before, instead of exporting them again."""

    def quantize_graph(
        graph: Graph,
        path: Path,
        _progress: object = None,
        *,
        precision: Precision,
        quantizer: Quantizer,
        feedback: None,
    ) -> None:
        assert precision == quantizer.precision and feedback is None
        model = ir.load(built6.path / f"onnx/{graph.name}.onnx")
        quantizer.apply(model, graph)
        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)

    monkeypatch.setattr(bundle_module, "export_onnx", quantize_graph)
