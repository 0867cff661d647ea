"""Linear layers with what is around them as one operator: cut out where it may be, and computed as before."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from bench_language import DYNAMIC_GRAPH, write_dynamic_graph

from aurora_export.export.fuse_attention import fuse_attention
from aurora_export.export.fuse_blocks import fuse_blocks
from aurora_export.export.fuse_mlp import fuse_mlp
from aurora_export.export.low_rank import quantize_low_rank
from aurora_export.export.sample_inputs import sample_frames
from aurora_export.export.weight_only import quantize_weights
from aurora_export.plugins.cpu import LEVEL, LIBRARY_NAME, levels, library_path
from aurora_export.plugins.linear import ADD_OP_TYPE, GELU_OP_TYPE, OP_TYPE, SQUARED_RELU_OP_TYPE
from block_linear import error

LIBRARY = library_path()


@pytest.fixture
def vision(built6):
    """The int8 vision graph, before."""
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/vision.onnx"))
    quantize_weights(model)
    fuse_attention(model, built6.model.config.vision.layers_used)
    return model


def language_of(built, bits=8):
    model = ir.serde.deserialize_model(onnx.load(built.path / "onnx/language.onnx"))
    quantize_weights(model, bits=bits)
    if built.model.config.language.version == 6:
        quantize_low_rank(model)
        fuse_blocks(model, built.model.config.language.n_layers)
    return model


def count(model):
    names = [node.op_type for node in model.graph]
    return {name: names.count(name) for name in (OP_TYPE, ADD_OP_TYPE, GELU_OP_TYPE, SQUARED_RELU_OP_TYPE)}


def session_of(model, library=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if library is not None:
        options.register_custom_ops_library(str(library))
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inputs_of(session, n_tokens):
    rng = np.random.default_rng(0)
    sizes = {"B": 1, "T": n_tokens}
    shapes = {entry.name: [sizes.get(size, size) for size in entry.shape] for entry in session.get_inputs()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_every_block_of_the_tower_has_one(vision, built6):
    n_layers, before = built6.model.config.vision.layers_used, session_of(vision)
    n_linear = count(vision)[OP_TYPE]
    assert fuse_mlp(vision)[0] == n_layers
    found = count(vision)
    assert found[GELU_OP_TYPE] == n_layers and found[SQUARED_RELU_OP_TYPE] == 0
    assert found[OP_TYPE] + found[ADD_OP_TYPE] + 2 * n_layers == n_linear
    assert found[ADD_OP_TYPE] >= n_layers - 1, "attention's output, where it is not merged before it is added"
    inputs = {"frames": sample_frames(2, built6.model.config.vision.image_size)}
    for actual, expected in zip(session_of(vision).run(None, inputs), before.run(None, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_channel_mix_of_rwkv_6_is_one(built6, bits):
    n_layers, model = built6.model.config.language.n_layers, language_of(built6, bits)
    before = session_of(model)
    assert fuse_mlp(model) == (n_layers, 0)
    assert count(model)[SQUARED_RELU_OP_TYPE] == n_layers
    assert "ReluSquare" not in {key[1] for key in model.functions}, "nothing calls it any more"
    inputs = inputs_of(before, 5)
    for actual, expected in zip(session_of(model).run(None, inputs), before.run(None, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_the_benchmark_beside_it_multiplies_every_layer_by_the_peers_operator(built6, tmp_path):
    """A layer that stayed ours there would run as a slower function, and the peer would look slow."""
    model = language_of(built6)
    n_linear = count(model)[OP_TYPE]
    fuse_mlp(model)
    ir.save(model, tmp_path / "fused.onnx")
    write_dynamic_graph(tmp_path / "fused.onnx", tmp_path)
    nodes = [(node.domain, node.op_type) for node in onnx.load(tmp_path / DYNAMIC_GRAPH).graph.node]
    assert nodes.count(("com.microsoft", "DynamicQuantizeMatMul")) == n_linear
    assert {op_type for domain, op_type in nodes if domain == "aurora"} == {"Wkv6"}


def test_rwkv_7_is_left_alone(built7):
    model = language_of(built7)
    found = count(model)
    assert fuse_mlp(model) == (0, 0) and count(model) == found


@pytest.mark.skipif(LIBRARY is None, reason=f"{LIBRARY_NAME} was not built: there was no C++ compiler")
@pytest.mark.parametrize("n_tokens", [1, 5, 40])
def test_the_kernels_compute_what_the_functions_say(built6, vision, monkeypatch, n_tokens):
    """Activations have 8 bits in both; between two codes one may take the other."""
    model = language_of(built6)
    fuse_mlp(model)
    fuse_mlp(vision)
    inputs = inputs_of(session_of(model), n_tokens)
    frames = {"frames": sample_frames(2, built6.model.config.vision.image_size)}
    expected = session_of(model).run(None, inputs)
    seen = session_of(vision).run(None, frames)
    for level in levels(LIBRARY):
        if not level.is_supported:
            continue
        monkeypatch.setenv(LEVEL, level.name)
        for actual, right in zip(session_of(model, LIBRARY).run(None, inputs), expected, strict=True):
            assert error(actual, right) < 0.02
        tokens, right = session_of(vision, LIBRARY).run(None, frames)[0], seen[0]
        assert error(tokens.mean(1), right.mean(1)) < 0.05, "the order of tokens may differ, hardly their mean"


def add_to_the_hidden_ones(graph, gelu):
    gelu.outputs[0].name = "hidden"
    graph.outputs.append(gelu.outputs[0])


def take_the_exact_form(_graph, gelu):
    gelu.attributes.add(ir.AttrString("approximate", "none"))


@pytest.mark.parametrize("change", [add_to_the_hidden_ones, take_the_exact_form])
def test_another_mlp_is_left_alone(vision, built6, change):
    gelu = next(node for node in vision.graph if node.op_type == "Gelu")
    change(vision.graph, gelu)
    assert fuse_mlp(vision)[0] == built6.model.config.vision.layers_used - 1
    assert "Gelu" in {node.op_type for node in vision.graph}
