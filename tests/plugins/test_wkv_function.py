from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from aurora_export.plugins import DOMAIN, NODE_ATTRIBUTES, OP_VERSION, WKV_OPS
from aurora_export.plugins.wkv import reference
from aurora_export.plugins.wkv.onnx_function import wkv7_function_without_matmul, wkv_function
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS

OPSET = 20
N_HEADS, SIZE = 2, 8
SHAPES = {
    "(B, T, H, N)": ("B", "T", N_HEADS, SIZE),
    "(H, N)": (N_HEADS, SIZE),
    "(B, H, N, N)": ("B", N_HEADS, SIZE, SIZE),
}


def model_of_one_node(op_type: str, *, attributes: dict[str, str] = NODE_ATTRIBUTES) -> onnx.ModelProto:
    """A model with nothing but the operator, B and T free."""
    described = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPES[shape]) for name, shape in entries.items()]
        for entries in (INPUTS[op_type], OUTPUTS)
    ]
    node = helper.make_node(op_type, list(INPUTS[op_type]), list(OUTPUTS), domain=DOMAIN, **attributes)
    return helper.make_model(
        helper.make_graph([node], "one", *described),
        functions=[wkv_function(op_type, opset=OPSET)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)],
        ir_version=10,
    )


def inputs(op_type: str, n_sequences: int, n_tokens: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n_tokens)
    sizes = {"B": n_sequences, "T": n_tokens}
    arrays = {
        name: rng.normal(size=[sizes.get(entry, entry) for entry in SHAPES[shape]]).astype(np.float32)
        for name, shape in INPUTS[op_type].items()
    }
    if op_type == "Wkv6":
        arrays["log_decay"] = -np.exp(arrays["log_decay"] * 2)  # from almost no decay to exp(-40)
    else:
        arrays["log_decay"] = -0.6065 / (1 + np.exp(-arrays["log_decay"]))
        arrays["removal"] /= np.linalg.norm(arrays["removal"], axis=-1, keepdims=True)
        arrays["replacement"] = -arrays["removal"] * 0.5
    return arrays


def expected(op_type: str, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    recurrent = getattr(reference, f"{op_type.lower()}_recurrent")
    return [value.numpy() for value in recurrent(*map(torch.from_numpy, arrays.values()))]


@pytest.fixture(scope="module", params=WKV_OPS.values())
def op_type(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def session(op_type) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model_of_one_node(op_type).SerializeToString())


@pytest.mark.parametrize("n_sequences", [1, 3])
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 64, 300])
def test_equals_the_reference_for_any_batch_and_length(op_type, session, n_sequences, n_tokens):
    arrays = inputs(op_type, n_sequences, n_tokens)
    for actual, wanted in zip(session.run(None, arrays), expected(op_type, arrays), strict=True):
        assert actual.shape == wanted.shape
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("n_tokens", [1, 7, 64])
def test_form_without_matmul_equals_the_reference(n_tokens):
    model = model_of_one_node("Wkv7")
    model.functions[0].CopyFrom(wkv7_function_without_matmul(opset=OPSET))
    onnx.checker.check_model(model, full_check=True)
    arrays = inputs("Wkv7", 2, n_tokens)
    actual = onnxruntime.InferenceSession(model.SerializeToString()).run(None, arrays)
    for x, wanted in zip(actual, expected("Wkv7", arrays), strict=True):
        np.testing.assert_allclose(x, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_two_chunks_are_the_whole(op_type, session):
    arrays = inputs(op_type, 2, 11)
    whole, last = session.run(None, arrays)
    parts, state = [], arrays["state"]
    for chunk in (slice(0, 4), slice(4, 11)):
        tokens = {
            name: arrays[name][:, chunk] if shape == "(B, T, H, N)" else arrays[name]
            for name, shape in INPUTS[op_type].items()
        }
        output, state = session.run(None, {**tokens, "state": state})
        parts.append(output)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(state, last, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("attributes", [{}, NODE_ATTRIBUTES], ids=["without", "with"])
def test_checker_accepts_the_node_with_and_without_its_attributes(op_type, attributes):
    model = model_of_one_node(op_type, attributes=attributes)
    onnx.checker.check_model(model, full_check=True)
    onnxruntime.InferenceSession(model.SerializeToString())


def test_shapes_are_inferred_through_the_function(op_type):
    model = model_of_one_node(op_type)
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
    sizes = [[dim.dim_param or dim.dim_value for dim in output.type.tensor_type.shape.dim] for output in inferred]
    assert sizes == [["B", "T", N_HEADS, SIZE], ["B", N_HEADS, SIZE, SIZE]]


def test_scan_body_reads_nothing_from_outside(op_type):
    (scan,) = [node for node in wkv_function(op_type, opset=OPSET).node if node.op_type == "Scan"]
    (body,) = [attribute.g for attribute in scan.attribute if attribute.name == "body"]
    known = {value.name for value in body.input}
    for node in body.node:
        assert set(node.input) <= known
        known |= set(node.output)
    assert {value.name for value in body.output} <= known


def test_can_be_inlined_to_standard_operators(op_type):
    inlined = onnx.inliner.inline_local_functions(model_of_one_node(op_type))
    assert {node.domain for node in inlined.graph.node} == {""}
    arrays = inputs(op_type, 2, 5)
    actual = onnxruntime.InferenceSession(inlined.SerializeToString()).run(None, arrays)
    np.testing.assert_allclose(actual[0], expected(op_type, arrays)[0], rtol=1e-5, atol=1e-5)


def test_without_the_function_a_plain_runtime_refuses(op_type):
    model = model_of_one_node(op_type)
    del model.functions[:]
    with pytest.raises(Exception, match=f"aurora:{op_type}"):
        onnxruntime.InferenceSession(model.SerializeToString())
