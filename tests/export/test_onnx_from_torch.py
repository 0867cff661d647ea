"""The exported graphs, run by ONNX Runtime, against the reference; and what else is in the files."""

from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto

import tiny
from aurora_export.config import PROFILES
from aurora_export.contract import STATE_NAMES
from aurora_export.export.graph_lint import lint
from aurora_export.export.graphs import build_graphs
from aurora_export.export.onnx_from_torch import OPSET, export_onnx, hide_layer_outputs
from aurora_export.export.reference_outputs import Reference, next_state
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.runtime.engine_onnx import OnnxEngine


@pytest.fixture(scope="module")
def engines():
    opened = {}

    def engine(built, graph):
        key = (built.path, graph)
        if key not in opened:
            opened[key] = OnnxEngine(built.path / f"onnx/{graph}.onnx", built.manifest.contract[graph])
        return opened[key]

    return engine


def assert_close(actual, expected, limit):
    for name, wanted in expected.items():
        assert actual[name].dtype == wanted.dtype
        if wanted.dtype == np.float32:
            np.testing.assert_allclose(actual[name], wanted, rtol=0, atol=limit * np.abs(wanted).max(), err_msg=name)
        else:
            np.testing.assert_array_equal(actual[name], wanted, err_msg=name)


@pytest.mark.parametrize("n_frames", [1, 2, 4])
def test_vision_equals_the_reference(built, engines, n_frames):
    frames = sample_frames(n_frames, built.model.config.vision.image_size, seed=n_frames)
    assert_close(engines(built, "vision").run({"frames": frames}), Reference(built.model).run_vision(frames), 1e-5)


# 2 tokens are a case of their own: there T - 1 is 1.
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 64, 300])
@pytest.mark.parametrize("n_sequences", [1, 3])
def test_language_equals_the_reference(built, engines, n_sequences, n_tokens):
    reference = Reference(built.model)
    state = reference.state_after(sample_embeddings(reference.embedding_table, n_sequences, 4, seed=1))
    embeddings = sample_embeddings(reference.embedding_table, n_sequences, n_tokens)
    actual = engines(built, "language").run({"embeddings": embeddings, **state})
    assert_close(actual, reference.run_language(embeddings, state), 1e-5)


def test_step_by_step_equals_the_whole(built, engines):
    reference = Reference(built.model)
    embeddings = sample_embeddings(reference.embedding_table, 1, 12)
    state = zero = {name: np.zeros_like(value) for name, value in reference.state_after(embeddings).items()}
    for token in range(12):
        outputs = engines(built, "language").run({"embeddings": embeddings[:, token : token + 1], **state})
        state = next_state(outputs)
    assert_close(outputs, reference.run_language(embeddings, zero), 1e-5)


@pytest.mark.parametrize("graph", ["vision", "language"])
def test_file_says_nothing_about_the_machine_that_made_it(built, root, graph):
    content = (built.path / f"onnx/{graph}.onnx").read_bytes()
    for trace in (b".py", b"site-packages", b"stack_trace", b"Traceback", str(root).encode(), b"pkg.torch"):
        assert trace not in content, trace


@pytest.mark.parametrize("graph", ["vision", "language"])
def test_file_is_what_readers_of_the_file_rely_on(built, graph):
    path = built.path / f"onnx/{graph}.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path, load_external_data=False)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == OPSET == 20
    assert model.producer_name == "aurora-export"
    weights = {tensor.name.removesuffix(".transposed"): tensor for tensor in model.graph.initializer}
    parts = {"vision": ("vision", "projector"), "language": ("language",)}[graph]
    names = {f"{part}.{name}" for part in parts for name, _ in getattr(built.model, part).named_parameters()}
    assert names - set(weights) <= {"language.emb.weight"}, "weights keep the checkpoint's names"
    assert "language.emb.weight" not in weights, "the embedding table stays outside"
    large = {name for name, tensor in weights.items() if tensor.data_location == TensorProto.EXTERNAL}
    assert large
    assert large <= names
    assert not any(node.op_type == "Transpose" and node.input[0] in weights for node in model.graph.node)


def test_one_wkv_node_per_layer(built):
    model = onnx.load(built.path / "onnx/language.onnx", load_external_data=False)
    version, n_layers = built.model.config.language.version, built.model.config.language.n_layers
    assert [node.op_type for node in model.graph.node if node.domain == "aurora"] == [f"Wkv{version}"] * n_layers
    assert [function.name for function in model.functions] == [f"Wkv{version}"]


def test_each_weight_is_read_when_it_is_written_and_not_kept(built6, tmp_path):
    graph, reads, alive = built6.graphs["language"], [], []

    def read(name):
        assert sum(reference() is not None for reference in alive) <= 2, "weights are collected, not streamed"
        reads.append(name)
        tensor = built6.model.weight(name).clone()
        alive.append(weakref.ref(tensor))
        return tensor

    export_onnx(dataclasses.replace(graph, read_weight=read), tmp_path / "language.onnx")
    matrices = [name for name, value in graph.module.named_parameters() if name.endswith("weight") and value.ndim == 2]
    matrices.remove("language.emb.weight")
    assert {name: reads.count(name) for name in matrices} == dict.fromkeys(matrices, 1)
    assert "language.emb.weight" not in reads


def test_same_weights_give_the_same_bytes(built6, tmp_path):
    for graph in ("language",):
        export_onnx(built6.graphs[graph], tmp_path / f"{graph}.onnx")
        for suffix in ("onnx", "onnx.data"):
            assert (tmp_path / f"{graph}.{suffix}").read_bytes() == (
                built6.path / f"onnx/{graph}.{suffix}"
            ).read_bytes()


def test_residual_streams_are_named(built):
    assert built.manifest.layer_outputs == {
        "vision": ["vision.layers.0", "vision.layers.1"],
        "language": ["language.layers.0", "language.layers.1"],
    }


def test_a_lost_residual_stream_is_an_error(built6):
    model = ir.load(built6.path / "onnx/language.onnx")
    with pytest.raises(RuntimeError, match=r"^language: the exporter lost the value language\.layers\.0$"):
        hide_layer_outputs(model, built6.graphs["language"])


def test_wkv_inputs_are_distinct_values(built7):
    """torch.export makes one input of a tensor that is passed twice, and the graph is wrong without a word."""
    pointers = [tensor.data_ptr() for tensor in built7.graphs["language"].example_inputs()]
    assert len(set(pointers)) == len(pointers) == 1 + len(STATE_NAMES)


SWITCHES = {
    "final sort": {"sort": "final"},
    "descending": {"order": "descending"},
    "no sort": {"sort": "none", "order": "none"},
    "no protected token": {"protect_first": False, "drop_first": False},
    "nothing merges": {"kept_ratio": 1.0},
    "exact schedule, final sort, set apart": PROFILES["paper"]["merge"] | {"sort": "final", "kept_ratio": 0.3},
    "most merges, proportional": {"kept_ratio": 0.02, "proportional_attention": True, "drop_first": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("merge", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_of_the_merging_is_exported_as_it_runs(merge, tmp_path):
    model = tiny.tiny_model(6, vision={"n_layers": 3, "layers_used": 2}, merge=merge)
    graph = build_graphs(model)["vision"]
    export_onnx(graph, tmp_path / "vision.onnx")
    lint(tmp_path / "vision.onnx", graph)
    engine = OnnxEngine(tmp_path / "vision.onnx", graph.spec)
    for n_frames in (1, 3):
        frames = sample_frames(n_frames, model.config.vision.image_size)
        assert_close(engine.run({"frames": frames}), Reference(model).run_vision(frames), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("side", [30, 72])
def test_sides_that_patches_do_not_cover_and_odd_numbers_of_them(side, tmp_path):
    model = tiny.tiny_model(6, vision={"n_layers": 3, "image_size": side})
    graph = build_graphs(model)["vision"]
    export_onnx(graph, tmp_path / "vision.onnx")
    frames = sample_frames(2, side)
    actual = OnnxEngine(tmp_path / "vision.onnx", graph.spec).run({"frames": frames})
    assert_close(actual, Reference(model).run_vision(frames), 1e-5)


def test_torch_is_left_as_it_was(built6):
    assert torch.is_grad_enabled()
    assert not built6.model.training
