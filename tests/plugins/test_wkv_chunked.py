"""The function body of WKV-6 without a loop: equal to the reference for any B and T."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from aurora_export.plugins import DOMAIN, NODE_ATTRIBUTES, OP_VERSION
from aurora_export.plugins.wkv.onnx_chunked import chunked_wkv6_function
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS
from aurora_export.plugins.wkv.reference import wkv6_recurrent
from wkv_on_cuda import random_inputs, shape_of

OPSET = 20
N_HEADS, SIZE = 2, 8
LOOPS = {"Scan", "Loop", "If"}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    sizes = ("B", "T", N_HEADS, SIZE)
    described = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape_of(name, sizes)) for name in names]
        for names in (INPUTS["Wkv6"], OUTPUTS)
    ]
    node = helper.make_node("Wkv6", list(INPUTS["Wkv6"]), list(OUTPUTS), domain=DOMAIN, **NODE_ATTRIBUTES)
    return helper.make_model(
        helper.make_graph([node], "one", *described),
        functions=[chunked_wkv6_function(opset=OPSET)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)],
        ir_version=10,
    )


@pytest.fixture(scope="module")
def session(model) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString())


def assert_equals_the_reference(session, inputs: dict[str, torch.Tensor], *, limit: float = 3e-6) -> None:
    actual = session.run(None, {name: x.numpy() for name, x in inputs.items()})
    for x, y in zip(actual, wkv6_recurrent(*(x.double() for x in inputs.values())), strict=True):
        assert x.shape == tuple(y.shape)
        np.testing.assert_allclose(x, y.numpy(), rtol=0, atol=limit * float(y.abs().max()))


@pytest.mark.parametrize("n_sequences", [1, 3])
@pytest.mark.parametrize("n_tokens", [1, 2, 7, 8, 9, 16, 63, 256])
def test_equals_the_reference_for_any_batch_and_length(session, n_sequences, n_tokens):
    sizes = (n_sequences, n_tokens, N_HEADS, SIZE)
    assert_equals_the_reference(session, random_inputs("Wkv6", sizes, seed=n_tokens, dtype=torch.float32))


def test_slow_decay_after_fast_decay_keeps_its_digits(session):
    # Running sums of the log-decay would be in the thousands here, and their differences without the last digits.
    inputs = random_inputs("Wkv6", (1, 200, N_HEADS, SIZE), seed=1, dtype=torch.float32)
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], -20.0)
    inputs["log_decay"][:, 160:] = -0.001
    assert_equals_the_reference(session, inputs)


def test_extreme_decays_give_no_nan(session):
    inputs = random_inputs("Wkv6", (1, 40, N_HEADS, SIZE), seed=2, dtype=torch.float32)
    generator = torch.Generator().manual_seed(2)
    is_fast = torch.rand(inputs["log_decay"].shape, generator=generator) < 0.5
    inputs["log_decay"] = torch.where(is_fast, -1e4, -1e-6)
    # Sums of up to eight clamped log-decays, 160, leave 1e-5 of a slow one: so it is in `reference.wkv6_chunked`.
    assert_equals_the_reference(session, inputs, limit=3e-5)


def test_there_is_no_loop_and_the_checker_accepts_it(model):
    onnx.checker.check_model(model, full_check=True)
    assert not {node.op_type for node in model.functions[0].node} & LOOPS
