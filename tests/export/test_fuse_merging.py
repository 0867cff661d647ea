"""The merging of vision blocks as one operator: its body is what was exported; the kernel does the same to the bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import tiny
from aurora_export.config import PROFILES
from aurora_export.export.engine_graph import write_plain_graph
from aurora_export.export.fuse_attention import fuse_attention
from aurora_export.export.fuse_merging import fuse_merging
from aurora_export.export.gather_rows import gather_rows
from aurora_export.export.graph_lint import problems
from aurora_export.export.graphs import build_graphs
from aurora_export.export.onnx_from_torch import trace
from aurora_export.export.sample_inputs import sample_frames
from aurora_export.export.weight_only import quantize_weights
from aurora_export.plugins import cpu
from aurora_export.plugins.merge import OP_TYPE
from aurora_export.runtime.engine_onnx import register_operators

SETTINGS = {
    "unprotected": {"protect_first": False, "drop_first": False, "order": "descending"},
    "sorted at the end": {"sort": "final", "split": "patches_only"},
}
"""Beside those of the profiles, which the bundles of all tests here have."""


def narrow(model, n_layers):
    quantize_weights(model)
    fuse_attention(model, n_layers)
    gather_rows(model)
    return model


@pytest.fixture
def int8(built):
    """The int8 vision graph of either profile, before."""
    model = ir.serde.deserialize_model(onnx.load(built.path / "onnx/vision.onnx"))
    return narrow(model, built.model.config.vision.layers_used)


def run(model, frames, *, native=False):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if native:
        register_operators(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frames})


def stays_something(config):
    """Of each block, whether a token of set A stays: the exporter makes nodes of other shapes where none does."""
    n_tokens = config.vision.n_patches
    for r in config.merges_per_layer:
        n_a = (n_tokens - (config.merge.split == "patches_only") + 1) // 2
        yield 0 < r < n_a
        n_tokens -= r


def check_fused(model, graph):
    """The function does what the nodes did, and so does the kernel."""
    config = graph.config
    before = ir.serde.serialize_model(model)
    n_merging = sum(stays_something(config))
    assert n_merging and fuse_merging(model, config.merges_per_layer, config.merge) == n_merging
    after = ir.serde.serialize_model(model)
    onnx.checker.check_model(after)
    assert [node.op_type for node in after.graph.node].count(OP_TYPE) == n_merging
    assert [node.op_type for node in after.graph.node].count("ArgMax") == len(config.merges_per_layer) - n_merging
    frames = sample_frames(3, config.vision.image_size)
    pairs = [(run(after, frames), run(before, frames))]
    if cpu.library_path() is not None:
        pairs.append((run(after, frames, native=True), run(before, frames, native=True)))
    for actual, expected in pairs:
        for array, expected_array in zip(actual, expected, strict=True):
            np.testing.assert_array_equal(array, expected_array)
    return after


def test_profiles(built, int8, tmp_path):
    graph = built.graphs["vision"]
    after = check_fused(int8, graph)
    assert list(problems(after, graph, data_folder=tmp_path)) == []


@pytest.mark.parametrize("setting", ["unprotected", pytest.param("sorted at the end", marks=pytest.mark.slow)])
def test_other_settings(setting):
    merge = {**PROFILES["released"]["merge"], **SETTINGS[setting]}
    graph = build_graphs(tiny.tiny_model(6, vision={"n_layers": 2, "layers_used": 1}, merge=merge))["vision"]
    model = narrow(trace(graph), 1)
    after = check_fused(model, graph)
    if merge["sort"] != "per_layer":
        (body,) = (function for function in after.functions if function.name == OP_TYPE)
        assert [node.op_type for node in body.node].count("TopK") == 1


def test_engines_get_the_body(built6, tmp_path):
    """As builders take it: one graph of standard operators, shapes known, that computes what the bundle does."""
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/vision.onnx"))
    config = built6.model.config
    narrow(model, config.vision.layers_used)
    assert fuse_merging(model, config.merges_per_layer, config.merge) == 2
    (tmp_path / "plain").mkdir()
    bundle = ir.serde.serialize_model(model)
    onnx.save(bundle, tmp_path / "vision.onnx")
    plain = onnx.load(write_plain_graph(tmp_path / "vision.onnx", tmp_path / "plain"))
    assert {node.domain for node in plain.graph.node} == {""} and not plain.functions
    constants = {node.output[0] for node in plain.graph.node if node.op_type == "Constant"}
    constants |= {tensor.name for tensor in plain.graph.initializer}
    assert all(node.input[1] in constants for node in plain.graph.node if node.op_type == "TopK")
    frames = sample_frames(2, config.vision.image_size)
    for actual, expected in zip(run(plain, frames), run(bundle, frames), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def read_elsewhere(graph, node):
    graph.outputs.append(node.outputs[0])


def compute_otherwise(_graph, node):
    node.op_type = "ArgMin"


@pytest.mark.parametrize("change", [read_elsewhere, compute_otherwise])
def test_other_merging_is_left_alone(built6, change):
    """A value that is read elsewhere too, and a block made otherwise than the one before."""
    config = built6.model.config
    model = narrow(ir.serde.deserialize_model(onnx.load(built6.path / "onnx/vision.onnx")), config.vision.layers_used)
    *_, last = (node for node in model.graph if node.op_type == "ArgMax")
    change(model.graph, last)
    assert fuse_merging(model, config.merges_per_layer, config.merge) == 1
    left = [node for node in model.graph if node.op_type in ("ArgMax", "ArgMin")]
    assert left == [last]
