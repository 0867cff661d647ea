"""Low-rank matrices in 8 bits: which ones, how far off, and what the graph computes with them."""

from __future__ import annotations

import copy
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from aurora_export.export.low_rank import quantize_low_rank, round_columns
from aurora_export.export.reference_outputs import Reference
from aurora_export.export.sample_inputs import sample_embeddings
from block_linear import error, open_session

N_LAYERS = 2


@pytest.fixture(scope="module")
def quantized(built6):
    """The language graph with low-rank matrices of 8 bits, its tensors, and the names of the matrices."""
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/language.onnx"))
    names = quantize_low_rank(model)
    proto = ir.serde.serialize_model(model)
    return proto, {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}, names


def test_all_low_rank_matrices_of_rwkv6_and_nothing_else(quantized, built6):
    _, tensors, names = quantized
    expected = [name for name, _ in built6.model.named_parameters() if re.search(r"att\.time_(maa|decay)_w[12]$", name)]
    assert sorted(names) == sorted(expected)
    assert len(names) == 4 * N_LAYERS
    assert {name for name in tensors if name.endswith(".int8")} == {f"{name}.int8" for name in names}
    assert not set(names) & set(tensors)


def test_weights_are_off_by_half_a_step_at_most(quantized, built6):
    _, tensors, names = quantized
    for name in names:
        weight, codes, scales = built6.model.get_parameter(name).detach().numpy(), *stored(tensors, name)
        assert codes.dtype == np.int8
        assert scales.shape == (*weight.shape[:-2], 1, weight.shape[-1])
        assert (np.abs(codes * scales - weight) <= 0.5001 * scales).all()
        assert np.abs(codes.astype(int)).max() == 127


def stored(tensors, name):
    return tensors[f"{name}.int8"], tensors[f"{name}.scales"]


def test_the_graph_computes_with_the_weights_of_the_file(quantized, built6):
    proto, tensors, names = quantized
    model = copy.deepcopy(built6.model)
    for name in names:
        codes, scales = stored(tensors, name)
        model.get_parameter(name).data = torch.from_numpy(codes * scales)
    reference = Reference(model)
    state = reference.state_after(sample_embeddings(reference.embedding_table, 2, 4, seed=1))
    embeddings = sample_embeddings(reference.embedding_table, 2, 5)
    expected, session = reference.run_language(embeddings, state), open_session(proto)
    outputs = [output.name for output in session.get_outputs()]
    for name, found in zip(outputs, session.run(outputs, {"embeddings": embeddings, **state}), strict=True):
        assert error(found, expected[name]) < 1e-5


def test_rwkv7_is_left_alone(built7):
    model = ir.load(built7.path / "onnx/language.onnx")
    assert quantize_low_rank(model) == ()


def test_columns_of_nothing_and_of_nearly_nothing():
    weight = np.zeros((4, 3), np.float32)
    weight[:, 1], weight[2, 2] = 1e-40, -2
    codes, scales = round_columns(weight)
    np.testing.assert_array_equal(scales, np.float32([[1, 1, 2 / 127]]))
    assert codes[2, 2] == -127
    assert np.abs(codes.astype(int)).sum() == 127


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(wrong):
    with pytest.raises(ValueError, match="a low-rank weight is not finite"):
        round_columns(np.array([[1, wrong]], np.float32))
