"""Explicitly quantized graphs of the testbed in TensorRT-RTX, without a GPU: int8, fp8 and int4, for two architectures.

Ranges are made up: a builder reads them, and no number of the engine is looked at.
"""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from aurora_export.calibration.quantize_graph import quantize
from aurora_export.calibration.recipes import RECIPES
from aurora_export.calibration.scales_file import Data, Residual, Scales, TensorRange
from aurora_export.calibration.sites import find_sites
from aurora_export.errors import IncompatibleError
from aurora_export.export.builder_process import run_builder
from aurora_export.export.bundle import build_bundle
from aurora_export.export.engine_from_onnx import PROFILES, shapes_of
from aurora_export.export.engine_graph import write_plain_graph
from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint

pytestmark = pytest.mark.tensorrt

GRAPHS = ("vision", "language")


@pytest.fixture(scope="module")
def testbed(root, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("quantized") / "testbed.aurora"
    return bundle, build_bundle(open_checkpoint(CheckpointSource(path=root / "testbed/checkpoint")), bundle)


def made_up(model: ir.Model) -> Scales:
    """Ranges of ±4 for every site of a graph."""
    return Scales(
        format=1,
        graphs={},
        data=Data(digest="0" * 64, clips=1, frames=1, tokens=1, steps=1),
        method="max",
        residual=Residual(maximum=1, divisor=1),
        tensors={name: TensorRange(int8=4, fp8=4, maximum=4) for name in find_sites(model.graph)},
    )


def build(testbed, graph: str, scheme: str, capabilities: tuple[str, ...], folder: Path) -> dict:
    """Quantize a graph, write it as a bundle has it, and build its engine."""
    bundle, manifest = testbed
    source = folder / "onnx" / f"{graph}.onnx"
    source.parent.mkdir()
    model = ir.load(bundle / manifest.files[graph])
    assert quantize(model, made_up(model), RECIPES[scheme])
    ir.save(model, source, external_data=f"{source.name}.data", size_threshold_bytes=1 << 20)
    source.with_name(f"{source.name}.data").touch()
    (folder / "plain").mkdir()
    job = {
        "onnx": str(write_plain_graph(source, folder / "plain")),
        "engine": str(folder / f"{graph}.engine"),
        "compute_capabilities": list(capabilities),
        "profiles": [shapes_of(manifest.contract[graph], profile) for profile in PROFILES[graph]],
    }
    return run_builder(job, program="aurora_export.export.rtx_builder", library="TensorRT-RTX")


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    ("scheme", "capabilities"), [("int8", ("8.6", "8.9")), ("int4", ("8.6", "8.9")), ("fp8", ("8.9",))]
)
def test_quantized_graphs_build(testbed, tmp_path, graph, scheme, capabilities):
    assert build(testbed, graph, scheme, capabilities, tmp_path)["build_s"] > 0
    assert (tmp_path / f"{graph}.engine").stat().st_size > 0


@pytest.mark.parametrize("graph", GRAPHS)
def test_fp8_is_refused_for_8_6(testbed, tmp_path, graph):
    with pytest.raises(IncompatibleError, match=r"refuses it for 8\.6: .*fp8"):
        build(testbed, graph, "fp8", ("8.6",), tmp_path)
