"""MergeTokens: the kernel equals model/merging.py in every setting, wherever rounding does not decide what merges.

That it equals the function in a graph bit for bit is in tests/export/test_fuse_merging.py.
"""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from aurora_export.config import PROFILES, MergeConfig
from aurora_export.model.merging import Tokens, merge, merge_and_sort
from aurora_export.plugins import DOMAIN, OP_VERSION, cpu
from aurora_export.plugins.merge import INPUTS, OP_TYPE, ORDERS, OUTPUTS
from aurora_export.runtime.engine_onnx import register_operators

LIBRARY = cpu.library_path()
pytestmark = pytest.mark.skipif(LIBRARY is None, reason="the operator library was not built: no C++ compiler")
LEVELS = [level.name for level in cpu.levels(LIBRARY) if level.is_supported] if LIBRARY else []

InvalidArgument = onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument

SETTINGS = {
    "released": {},
    "paper": PROFILES["paper"]["merge"],
    "unprotected": {"protect_first": False, "drop_first": False},
    "descending": {"order": "descending"},
    "unsorted": {"sort": "none", "order": "none"},
    "sorted at the end": {"sort": "final", "split": "patches_only"},
}

SIZES = [(1, 3, 1, 1, 1), (2, 17, 5, 3, 8), (2, 151, 40, 72, 21)]
"""Frames, tokens, width, size of the metric, merges."""


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    monkeypatch.setenv(cpu.LEVEL, request.param)
    return request.param


def merge_config(**changes):
    return MergeConfig.model_validate({**PROFILES["released"]["merge"], **changes})


def open_session(r, config, *, threads=2):
    order = ORDERS[config.order if config.sort == "per_layer" else "none"]
    attributes = {"r": r, "protect_first": int(config.protect_first), "order": order}
    attributes["first_apart"] = int(config.split == "patches_only")
    types = [[TensorProto.FLOAT] * (len(names) - 1) + [TensorProto.INT64] for names in (INPUTS, OUTPUTS)]
    values = [
        [helper.make_tensor_value_info(*entry, None) for entry in zip(names, dtypes, strict=True)]
        for names, dtypes in zip((INPUTS, OUTPUTS), types, strict=True)
    ]
    node = helper.make_node(OP_TYPE, list(INPUTS), list(OUTPUTS), domain=DOMAIN, **attributes)
    model = helper.make_model(
        helper.make_graph([node], "one", *values),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OP_VERSION)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    register_operators(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def draw(F, T, D, M, *, seed=0, axes=False):
    """Tokens that were merged before. axes: metrics along few axes, so that most similarities are equal, exactly."""
    rng = np.random.default_rng(seed + T)
    metric = rng.normal(size=(F, T, M))
    if axes:
        metric = np.eye(M)[rng.integers(0, M, (F, T))] * 2.0 ** rng.integers(-3, 4, (F, T, 1))
    return {
        "x": rng.normal(size=(F, T, D)).astype(np.float32),
        "metric": metric.astype(np.float32),
        "sizes": rng.integers(1, 5, (F, T)).astype(np.float32),
        "owner": rng.integers(0, T, (F, T + 2)),
    }


def reference(inputs, r, config):
    x, metric, sizes, owner = (torch.from_numpy(inputs[name]) for name in INPUTS)
    return [tensor.numpy() for tensor in merge_and_sort(Tokens(x, sizes, owner), metric, r, config)]


def compare(actual, expected):
    np.testing.assert_array_equal(actual[1], expected[1])
    np.testing.assert_array_equal(actual[2], expected[2])
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axes", [False, True], ids=["drawn", "ties"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_kernel_equals_the_reference(level, setting, axes):
    config = merge_config(**SETTINGS[setting])
    for *sizes, r in SIZES:
        inputs = draw(*sizes, axes=axes)
        compare(open_session(r, config).run(None, inputs), reference(inputs, r, config))


def test_near_ties(level):
    """Similarities within rounding may merge otherwise: those that do are as similar, and no token is lost."""
    config = merge_config(sort="none", order="none")
    rng = np.random.default_rng(0)
    inputs = draw(1, 200, 4, 32)
    inputs["metric"] = (1 + 1e-6 * rng.normal(size=(1, 200, 32))).astype(np.float32)
    inputs["owner"] = np.arange(200)[None]
    _, sizes, owner = open_session(30, config).run(None, inputs)
    assert sizes.sum() == inputs["sizes"].sum()
    assert sorted(set(owner[0])) == list(range(170))
    assert set(owner[0, 1::2]) == set(range(70, 170))  # all of set B, as they were
    assert np.all(np.diff(owner[0, 1::2]) > 0)


def test_scale_of_the_metric_is_nothing(level):
    """Lengths that underflow are no lengths: all tokens are alike then, and the first of them merge with the first."""
    config = merge_config()
    inputs = draw(1, 30, 5, 8)
    for scale, same in [(1e-30, False), (1e15, True), (0, False)]:
        scaled = {**inputs, "metric": (inputs["metric"] * np.float32(scale)).astype(np.float32)}
        result = open_session(9, config).run(None, scaled)
        assert result[1].sum() == inputs["sizes"].sum()
        if same:
            compare(result, reference(inputs, 9, config))
        elif scale == 0:
            compare(result, reference(scaled, 9, config))


def test_result_does_not_depend_on_threads():
    inputs, config = draw(2, 301, 96, 64), merge_config()
    results = [open_session(21, config, threads=threads).run(None, inputs) for threads in (1, 2, 3)]
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(actual, expected)


def test_levels_agree_on_what_merges(monkeypatch):
    inputs, config = draw(2, 301, 9, 64), merge_config()
    owners = []
    for name in LEVELS:
        monkeypatch.setenv(cpu.LEVEL, name)
        owners.append(open_session(21, config).run(None, inputs)[2])
    assert all(np.array_equal(owner, owners[0]) for owner in owners)


def test_one_frame_does_not_see_another():
    config = merge_config(**PROFILES["paper"]["merge"])
    inputs, session = draw(4, 50, 8, 16), open_session(10, config)
    together = session.run(None, inputs)
    for frame in range(4):
        alone = session.run(None, {name: array[frame : frame + 1] for name, array in inputs.items()})
        for actual, expected in zip(alone, together, strict=True):
            np.testing.assert_array_equal(actual[0], expected[frame])


def test_what_is_not_a_number_stays_where_it_is(level):
    """A vector of the graph's product would carry it to every token of the frame."""
    config = merge_config()
    inputs = draw(1, 20, 6, 8)
    expected = reference(inputs, 5, config)
    inputs["x"][0, 6, 2] = np.nan
    merged, sizes, _owner = open_session(5, config).run(None, inputs)
    np.testing.assert_array_equal(sizes, expected[1])
    assert np.isnan(merged).sum() == 1
    inputs["metric"][:] = np.nan
    assert open_session(5, config).run(None, inputs)[1].sum() == inputs["sizes"].sum()


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("metric", lambda array: array[:, :3], "metric has shape"),
        ("sizes", lambda array: array[:, :3], "sizes has shape"),
        ("sizes", lambda array: array * 0, "sizes are not all from 1"),
        ("sizes", lambda array: array * np.float32(np.nan), "sizes are not all from 1"),
        ("sizes", lambda array: array * np.float32(1e30), "sizes are not all from 1"),
        ("owner", lambda array: array + 20, "owner names a token"),
        ("owner", lambda array: array - 20, "owner names a token"),
        ("x", lambda array: array[:, :6], "tokens to merge 4"),
        ("x", lambda array: array[0], "x has shape"),
    ],
)
def test_wrong_inputs_are_refused(name, change, says):
    inputs = draw(1, 20, 5, 8)
    inputs[name] = change(inputs[name])
    with pytest.raises(InvalidArgument, match=says):
        open_session(4, merge_config()).run(None, inputs)


def test_wrong_attributes_are_refused():
    with pytest.raises(Exception, match="r is 0, not positive"):
        open_session(0, merge_config())


def test_merging_is_that_of_the_reference():
    """The name of the operator's first output is what the model calls merging: r tokens fewer."""
    inputs = draw(1, 20, 5, 8)
    x, metric, sizes, owner = (torch.from_numpy(inputs[name]) for name in INPUTS)
    expected = merge(Tokens(x, sizes, owner), metric, 4, protect_first=True)
    actual = open_session(4, merge_config(sort="final")).run(None, inputs)
    compare(actual, [tensor.numpy() for tensor in expected])
