"""HeadsAttention: the function equals the model's attention; the kernel equals the function, but for 8 bits."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import tiny
from aurora_export.model.vision import Attention
from aurora_export.plugins import DOMAIN, OP_VERSION, cpu
from aurora_export.plugins.attention import INPUTS, OP_TYPE, OUTPUTS
from aurora_export.plugins.attention.onnx_function import heads_attention_function
from aurora_export.runtime.engine_onnx import register_operators

LIBRARY = cpu.library_path()
needs_library = pytest.mark.skipif(LIBRARY is None, reason="the operator library was not built: no C++ compiler")
LEVELS = [level.name for level in cpu.levels(LIBRARY) if level.is_supported] if LIBRARY else []

SIZES = [(1, 1, 1, 4), (2, 5, 3, 8), (1, 17, 2, 64), (2, 33, 2, 72), (1, 130, 4, 64), (1, 600, 1, 6), (1, 40, 2, 128)]
"""Frames, tokens, heads, size of a head: more keys than a strip holds, heads that are no whole number of vectors."""


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setenv(cpu.LEVEL, request.param)
    return request.param


def open_session(n_heads, scale, *, native, threads=2):
    node = helper.make_node(OP_TYPE, list(INPUTS), list(OUTPUTS), domain=DOMAIN, n_heads=n_heads, scale=scale)
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names] for names in (INPUTS, OUTPUTS)
    ]
    model = helper.make_model(
        helper.make_graph([node], "one", *values),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OP_VERSION)],
        ir_version=10,
        functions=[] if native else [heads_attention_function(n_heads, scale, opset=20)],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if native:
        register_operators(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def draw(F, T, H, N):
    rng = np.random.default_rng(T)
    shapes = [(F, T, H * N)] * 3 + [(H * N,)] * 3
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in zip(INPUTS, shapes, strict=True)}


def test_function_equals_the_model():
    config = tiny.tiny_config().vision
    attention = Attention(config).eval()
    h = torch.randn(2, 9, config.width, generator=torch.Generator().manual_seed(0))
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    inputs = [(h @ layer.weight.T).detach().numpy() for layer in projections]
    inputs += [layer.bias.detach().numpy() for layer in projections]
    session = open_session(config.n_heads, attention.scale, native=False)
    mixed, metric = session.run(None, dict(zip(INPUTS, inputs, strict=True)))
    update, expected = (tensor.detach().numpy() for tensor in attention(h, None))
    np.testing.assert_allclose(metric, expected, atol=1e-6)
    np.testing.assert_allclose(attention.out_proj(torch.from_numpy(mixed)).detach().numpy(), update, atol=1e-6)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_kernel_equals_the_function(level, sizes):
    inputs = draw(*sizes)
    scale = sizes[3] ** -0.5
    mixed, metric = open_session(sizes[2], scale, native=True).run(None, inputs)
    expected, expected_metric = open_session(sizes[2], scale, native=False).run(None, inputs)
    np.testing.assert_allclose(metric, expected_metric, atol=1e-6)
    assert np.sqrt(np.mean((mixed - expected) ** 2) / np.mean(expected**2)) <= 0.015


@needs_library
def test_result_does_not_depend_on_threads():
    inputs = draw(2, 150, 4, 64)
    results = [open_session(4, 0.125, native=True, threads=threads).run(None, inputs) for threads in (1, 2, 3)]
    for mixed, metric in results[1:]:
        np.testing.assert_array_equal(mixed, results[0][0])
        np.testing.assert_array_equal(metric, results[0][1])


def test_one_certain_key(level):
    """Scores far apart: the softmax takes one value and nothing of the others."""
    inputs = draw(1, 40, 2, 16)
    inputs["query"][:] = 1
    inputs["key"][:] = -1000
    inputs["key"][:, 7] = 1000
    mixed, _ = open_session(2, 0.25, native=True).run(None, inputs)
    expected = inputs["value"][:, 7] + inputs["value_bias"]
    assert np.abs(mixed - expected[:, None]).max() <= 0.02 * np.abs(inputs["value"] + inputs["value_bias"]).max()


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_what_is_not_a_number_reaches_what_depends_on_it(level, name):
    inputs = draw(1, 20, 2, 8)
    inputs[name][0, 3, 2] = np.nan
    mixed, _ = open_session(2, 0.3, native=True).run(None, inputs)
    expected, _ = open_session(2, 0.3, native=False).run(None, inputs)
    np.testing.assert_array_equal(np.isnan(mixed), np.isnan(expected))


@needs_library
@pytest.mark.parametrize(
    ("sizes", "n_heads", "says"),
    [((1, 4, 2, 8), 3, "3 heads"), ((1, 4, 1, 132), 1, "larger than 128")],
    ids=["heads", "size"],
)
def test_wrong_sizes_are_refused(sizes, n_heads, says):
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match=says):
        open_session(n_heads, 0.1, native=True).run(None, draw(*sizes))


@needs_library
def test_wrong_shapes_are_refused():
    inputs = draw(1, 4, 2, 8)
    inputs["key"] = inputs["key"][:, :3]
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument, match="key has shape"):
        open_session(2, 0.1, native=True).run(None, inputs)
