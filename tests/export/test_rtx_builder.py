"""TensorRT-RTX itself, without a GPU: the testbed's graphs build, and what it is documented to refuse it refuses.

The engines are never run here.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper, save

from aurora_export.cli.progress import Progress
from aurora_export.errors import IncompatibleError
from aurora_export.export.builder_process import run_builder
from aurora_export.export.bundle import build_bundle
from aurora_export.export.engine_from_onnx import RTX, build_engines
from aurora_export.export.rtx_builder import configure
from aurora_export.manifest import read_manifest, verify_files
from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint

pytestmark = pytest.mark.tensorrt

SIZE = 256
"""Rows and columns of the weight in the graphs of one product."""


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_engines_of_the_testbed(root, tmp_path, precision):
    bundle = tmp_path / "testbed.aurora"
    loaded = open_checkpoint(CheckpointSource(path=root / "testbed/checkpoint"))
    build_bundle(loaded, bundle, precision=precision)
    build_engines(bundle, target=RTX, compute_capabilities=("8.6", "8.9"), progress=Progress())
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    weights = {name: (bundle / f"onnx/{name}.onnx.data").stat().st_size for name in ("vision", "language")}
    for name, path in manifest.engines[RTX].files.items():
        assert manifest.digests[path].size > weights[name]


def test_float32_is_not_tf32():
    import tensorrt_rtx as trt

    job = {"onnx": "", "engine": "", "compute_capabilities": ["8.6"], "profiles": []}
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    assert builder.create_builder_config().get_flag(trt.BuilderFlag.TF32), "the default changed: is the flag needed?"
    assert not configure(trt, builder, job).get_flag(trt.BuilderFlag.TF32)


def test_engines_of_rwkv7(built7, tmp_path):
    bundle = Path(shutil.copytree(built7.path, tmp_path / "copy.aurora"))
    build_engines(bundle, target=RTX, compute_capabilities=("12.0",), progress=Progress())
    verify_files(bundle, read_manifest(bundle))


def build(folder: Path, nodes: Sequence[NodeProto], weights: dict[str, np.ndarray | TensorProto], capability: str):
    """Build x (1, SIZE) -> y with the nodes of a graph."""
    kind = TensorProto.FLOAT16
    values = [helper.make_tensor_value_info(name, kind, [1, SIZE]) for name in ("x", "y")]
    tensors = [
        tensor if isinstance(tensor, TensorProto) else numpy_helper.from_array(tensor, name)
        for name, tensor in weights.items()
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("aurora", 1)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "g.onnx")
    job = {
        "onnx": str(folder / "g.onnx"),
        "engine": str(folder / "g.engine"),
        "compute_capabilities": [capability],
        "profiles": [],
    }
    answer = run_builder(job, program="aurora_export.export.rtx_builder", library="TensorRT-RTX")
    assert (folder / "g.engine").stat().st_size > 0
    return answer


def quantised_product(kind: int) -> tuple[list[NodeProto], dict[str, TensorProto | np.ndarray]]:
    """x @ weight with both rounded to an 8-bit type by QuantizeLinear and DequantizeLinear."""
    half = np.array(0.1, np.float16)
    zero = helper.make_tensor("zero", kind, [], [0])
    nodes = []
    for name in ("x", "weight"):
        nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"]))
    nodes.append(helper.make_node("MatMul", ["x_d", "weight_d"], ["y"]))
    weight = np.random.default_rng(0).normal(size=(SIZE, SIZE)).astype(np.float16)
    return nodes, {"weight": weight, "scale": half, "zero": zero}


def weight_only_product(kind: int) -> tuple[list[NodeProto], dict[str, TensorProto | np.ndarray]]:
    """x @ weight whose weight is integers with a scale for each block of 128."""
    codes = np.random.default_rng(0).integers(-7, 8, SIZE * SIZE)
    scales = np.full((SIZE // 128, SIZE), 0.01, np.float16)
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["weight"], axis=0, block_size=128),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    return nodes, {"codes": helper.make_tensor("codes", kind, [SIZE, SIZE], codes.tolist()), "scales": scales}


@pytest.mark.parametrize("capability", ["8.6", "8.9"])
def test_integer_types_build_for_both(tmp_path, capability):
    build(tmp_path, *quantised_product(TensorProto.INT8), capability)
    build(tmp_path, *weight_only_product(TensorProto.INT8), capability)
    build(tmp_path, *weight_only_product(TensorProto.INT4), capability)


def test_fp8_needs_compute_capability_8_9(tmp_path):
    build(tmp_path, *quantised_product(TensorProto.FLOAT8E4M3FN), "8.9")
    with pytest.raises(IncompatibleError, match=r"refuses it for 8\.6: .*fp8_e4m3"):
        build(tmp_path, *quantised_product(TensorProto.FLOAT8E4M3FN), "8.6")


def test_scatter_with_a_reduction_is_refused(tmp_path):
    node = helper.make_node("ScatterElements", ["x", "places", "x"], ["y"], axis=1, reduction="add")
    with pytest.raises(IncompatibleError, match="Unsupported reduction"):
        build(tmp_path, [node], {"places": np.zeros((1, SIZE), np.int64)}, "8.6")


def test_an_operator_without_a_body_is_refused(tmp_path):
    with pytest.raises(IncompatibleError, match="Plugin not found"):
        build(tmp_path, [helper.make_node("Nothing6", ["x"], ["y"], domain="aurora")], {}, "8.6")
