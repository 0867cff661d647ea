from __future__ import annotations

import numpy as np
import onnx
import pytest

from aurora_export.errors import AccuracyError, IncompatibleError
from aurora_export.export.comparison import LIMITS
from aurora_export.export.layers import compare_layers
from aurora_export.export.verify import verify_bundle


def change_weight(bundle, graph, name, change):
    """Change the numbers of a tensor in a bundle's external data; its digest is not renewed."""
    model = onnx.load(bundle / f"onnx/{graph}.onnx", load_external_data=False)
    (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data = np.memmap(
        bundle / "onnx" / entries["location"], np.float32, "r+", int(entries["offset"]), int(entries["length"]) // 4
    )
    data[:] = change(data)
    data.flush()


def test_bundle_equals_its_reference(built):
    verification = verify_bundle(built.path, built.model)
    assert verification == built.manifest.verification
    assert (verification.merge_flips, verification.n_frames, verification.n_tokens) == (0, 4, 396)
    assert set(verification.outputs) == set(LIMITS["fp32"]) - {"visual_tokens.matched", "visual_tokens.pooled"}
    for name, measured in verification.outputs.items():
        assert measured.error <= LIMITS["fp32"][name]


@pytest.mark.parametrize(
    ("graph", "tensor", "output"),
    [
        ("language", "language.head.weight", "logits"),
        ("language", "language.blocks.1.att.key.weight.transposed", "logits"),
        ("vision", "projector.model.2.weight.transposed", "visual_tokens"),
    ],
)
def test_planted_weight_error_is_found(built6, bundle_copy, graph, tensor, output):
    change_weight(bundle_copy, graph, tensor, lambda data: data * 1.001)
    with pytest.raises(AccuracyError, match=rf"^{output}: error \S+ against .* limit of 0\.0001"):
        verify_bundle(bundle_copy, built6.model)


def test_planted_error_in_the_keys_that_decide_the_merging_is_found(built6, bundle_copy):
    name = "vision.encoder.layers.0.self_attn.k_proj.weight.transposed"
    change_weight(bundle_copy, "vision", name, lambda data: np.roll(data, 1))
    with pytest.raises(AccuracyError) as caught:
        verify_bundle(bundle_copy, built6.model)
    assert caught.value.exit_code == 5


def test_one_wrong_number_of_the_embedding_table_is_found(built6, bundle_copy):
    table = np.load(bundle_copy / "embeddings/embeddings.npy", mmap_mode="r+")
    table[-1, -1] += 1e-3
    table.flush()
    with pytest.raises(AccuracyError, match=r"^embeddings: error"):
        verify_bundle(bundle_copy, built6.model)


def test_another_configuration_is_refused(built6, built7):
    with pytest.raises(IncompatibleError, match="was built with another configuration than the reference"):
        verify_bundle(built6.path, built7.model)
    with pytest.raises(IncompatibleError, match="was built with another configuration than the reference"):
        compare_layers(built6.path, built7.model)


def test_layers_agree(built):
    rows = compare_layers(built.path, built.model)
    layers = built.manifest.layer_outputs
    assert [row.name for row in rows] == [*layers["vision"], "visual_tokens", *layers["language"], "logits"]
    assert not any(row.differs for row in rows)
    assert all(0 < row.relative_error < 1e-5 and row.n_moved == 0 for row in rows)


@pytest.mark.parametrize(
    ("graph", "tensor", "first"),
    [
        ("vision", "vision.encoder.layers.1.mlp.fc2.weight.transposed", "vision.layers.1"),
        ("vision", "projector.model.0.weight.transposed", "visual_tokens"),
        ("language", "language.blocks.0.ffn.value.weight.transposed", "language.layers.0"),
        ("language", "language.head.weight", "logits"),
    ],
)
def test_first_layer_that_differs_is_where_the_fault_was_planted(built6, bundle_copy, graph, tensor, first):
    change_weight(bundle_copy, graph, tensor, lambda data: data * 1.01)
    rows = compare_layers(bundle_copy, built6.model)
    assert next(row.name for row in rows if row.differs) == first


def test_tokens_that_moved_are_told_from_tokens_that_are_wrong(built6, bundle_copy):
    path = bundle_copy / "onnx/vision.onnx"
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if "vision.layers.1" in node.output)
    node.output[0] = "unmoved"
    shape = next(value for value in model.graph.value_info if value.name == "vision.layers.1").type.tensor_type.shape
    n_tokens = shape.dim[1].dim_value
    order = onnx.numpy_helper.from_array(np.array([1, 0, *range(2, n_tokens)], np.int64), "order")
    model.graph.initializer.append(order)
    position = list(model.graph.node).index(node)
    model.graph.node.insert(
        position + 1, onnx.helper.make_node("Gather", ["unmoved", "order"], ["vision.layers.1"], name="swap", axis=1)
    )
    onnx.save(model, path)
    rows = {row.name: row for row in compare_layers(bundle_copy, built6.model)}
    assert rows["vision.layers.0"].n_moved == 0
    assert rows["vision.layers.1"].n_moved == 2 * 3
