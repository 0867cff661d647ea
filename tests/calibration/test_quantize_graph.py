"""Q/DQ in a graph computes what rounding by hand does; the policy decides where."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurora_export.calibration.quantize_graph import quantize, quantize_file
from aurora_export.calibration.recipes import LARGEST, RECIPES, Recipe, Scheme
from aurora_export.calibration.scales_file import Scales, TensorRange
from aurora_export.calibration.sites import find_sites, group_of, site_of_weight
from aurora_export.calibration.smoothing import smoothing_factors
from aurora_export.calibration.weight_scales import dequantize, quantize_weight, round_codes
from aurora_export.errors import IncompatibleError
from aurora_export.runtime.engine_onnx import quantization_options

RNG = np.random.default_rng(0)
WEIGHTS = {
    "language.blocks.0.att.key.weight.transposed": RNG.normal(size=(64, 6)),
    "language.blocks.0.att.output.weight.transposed": RNG.normal(size=(64, 6)),
    "language.blocks.0.att.time_maa_w1": RNG.normal(size=(64, 6)),
    "language.head.weight": RNG.normal(size=(6, 64)),
    "language.head.bias": RNG.normal(size=6),
}
ENDS = {"language.0.att.k": 2.0, "language.0.att.o": 2.5, "language.head": 2.25}


@pytest.fixture
def graph_file(tmp_path):
    """Four products of one input, two of them under names that recipes tell apart, one that is no layer."""
    key, output, low_rank, head, bias = WEIGHTS
    nodes = [
        helper.make_node("MatMul", ["x", key], ["k"], name="k"),
        helper.make_node("Identity", ["x"], ["x2"]),
        helper.make_node("MatMul", ["x2", output], ["o"], name="o"),
        helper.make_node("MatMul", ["x", low_rank], ["m"], name="m"),
        helper.make_node("Identity", ["x"], ["x3"]),
        helper.make_node("Gemm", ["x3", head, bias], ["h"], name="h", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "four",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 64])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", 6]) for name in "komh"],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in WEIGHTS.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), tmp_path / "four.onnx")
    return tmp_path / "four.onnx"


@pytest.fixture
def four_scales(scales: Scales) -> Scales:
    tensors = {name: TensorRange(int8=end, fp8=end * 1.1, maximum=9) for name, end in ENDS.items()}
    return scales.model_copy(update={"tensors": tensors})


def run(path, x, *, emulated):
    options = onnxruntime.SessionOptions()
    quantization_options(options, emulated=emulated)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return dict(zip("komh", session.run(list("komh"), {"x": x}), strict=True))


def by_hand(name: str, site: str, x: np.ndarray, scheme: Scheme | None, four_scales: Scales) -> np.ndarray:
    weight = WEIGHTS[name].astype(np.float32)
    weight = weight.T if name == "language.head.weight" else weight
    if scheme is not None:
        weight = dequantize(*quantize_weight(weight, scheme.weight, min(scheme.block or 64, 64)))
        if scheme.activation is not None:
            scale = np.float32(getattr(four_scales.tensors[site], scheme.activation) / LARGEST[scheme.activation])
            if scheme.activation == "int8":  # runtimes use the 128th negative code too
                x = np.clip(np.rint(x / scale), -128, 127) * scale
            else:
                x = round_codes(x / scale, scheme.activation).astype(np.float32) * scale
    return x @ weight


@pytest.mark.parametrize("recipe", RECIPES)
def test_graph_computes_what_its_codes_say(graph_file, four_scales, tmp_path, recipe):
    target, x = tmp_path / "q.onnx", RNG.normal(size=(50, 64)).astype(np.float32)
    assert quantize_file(graph_file, target, four_scales, RECIPES[recipe]) == (*map(group_of, ENDS),)
    found, before = run(target, x, emulated=recipe == "fp8"), run(graph_file, x, emulated=False)
    for value, site, name in zip("koh", ENDS, [list(WEIGHTS)[i] for i in (0, 1, 3)], strict=True):
        expected = by_hand(name, site, x, RECIPES[recipe].scheme_of(site), four_scales)
        expected = expected + WEIGHTS["language.head.bias"].astype(np.float32) if value == "h" else expected
        np.testing.assert_allclose(found[value], expected, rtol=0, atol=2e-5 * np.abs(expected).max(), err_msg=site)
        assert np.abs(found[value] - before[value]).max() > 1e-4, "nothing was rounded"
    np.testing.assert_array_equal(found["m"], before["m"])
    model = onnx.load(target)
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": RECIPES[recipe].opset}
    zeros = [tensor for tensor in model.graph.initializer if tensor.name.endswith(".zero")]
    assert all(not numpy_helper.to_array(tensor).astype(np.float32).any() for tensor in zeros)


def test_only_some_groups_and_those_kept_by_hand(graph_file, four_scales, tmp_path):
    target = tmp_path / "q.onnx"
    assert quantize_file(graph_file, target, four_scales, RECIPES["int8"], only={"language.head"}) == ("language.head",)
    kept = four_scales.model_copy(update={"keep": ("language.*.att.*",)})
    assert quantize_file(graph_file, target, kept, RECIPES["int8"]) == ("language.head",)
    assert quantize_file(graph_file, target, four_scales, RECIPES["int8"], only=()) == ()
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    before, after = (run(path, x, emulated=False) for path in (graph_file, target))
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_range_that_is_missing_is_named_only_where_it_is_needed(graph_file, four_scales):
    tensors = {name: entry for name, entry in four_scales.tensors.items() if name != "language.head"}
    lacking = four_scales.model_copy(update={"tensors": tensors})
    with pytest.raises(IncompatibleError, match=r"the scales have no tensor language\.head \(1 are missing\)"):
        quantize(ir.load(graph_file), lacking, RECIPES["int8"])
    # There the weights of the head alone are rounded.
    quantize(ir.load(graph_file), lacking, RECIPES["int4"])


def test_layers_of_one_activation_share_its_codes(tmp_path, scales):
    weight = RNG.normal(size=(8, 8)).astype(np.float32)
    names = [f"vision.encoder.layers.3.self_attn.{part}_proj.weight.transposed" for part in "qkv"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", name], [part]) for name, part in zip(names, "qkv", strict=True)],
        "three",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 8])],
        [helper.make_tensor_value_info(part, TensorProto.FLOAT, ["B", 8]) for part in "qkv"],
        [numpy_helper.from_array(weight, name) for name in names],
    )
    model = ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    tensors = {"vision.3.qkv": TensorRange(int8=1, fp8=1, maximum=1)}
    assert quantize(model, scales.model_copy(update={"tensors": tensors}), RECIPES["int8"]) == ("vision.3.qkv",)
    assert [node.op_type for node in model.graph].count("QuantizeLinear") == 1


def test_names_of_sites():
    assert site_of_weight("vision.encoder.layers.11.mlp.fc2.weight.transposed") == "vision.11.mlp.fc2"
    assert site_of_weight("language.blocks.5.att.receptance.weight.half") == "language.5.att.r"
    assert group_of("vision.11.mlp.fc2") == "vision.11.mlp" and group_of("language.5.ffn.v") == "language.5.ffn.v"
    for never in ("att.time_decay_w1", "att.time_maa_w2", "ln1.weight", "att.time_faaaa", "att.ln_x.weight"):
        assert site_of_weight(f"language.blocks.0.{never}") is None


def test_the_policy():
    for name, recipe in RECIPES.items():
        recurrent = [recipe.scheme_of(f"language.3.att.{part}") for part in "rkvo"]
        assert all(scheme == Scheme("int8") for scheme in recurrent), name
        assert recipe.scheme_of("vision.patch") is None
        assert recipe.opset <= 20 or any(scheme and scheme.weight == "int4" for _, scheme in recipe.schemes)
    assert RECIPES["int8"].keeping(["*.ffn.*"]).scheme_of("language.0.ffn.v") is None
    assert Recipe("none", 20, ()).scheme_of("vision.0.qkv") is None


def test_layers_that_read_different_activations_are_no_site(graph_file):
    model = ir.load(graph_file)
    for node in model.graph:
        if node.name == "o":
            node.inputs[1].name = "vision.encoder.layers.0.self_attn.q_proj.weight.transposed"
        if node.name == "k":
            node.inputs[1].name = "vision.encoder.layers.0.self_attn.k_proj.weight.transposed"
    with pytest.raises(ValueError, match="read 2 activations"):
        find_sites(model.graph)


def test_smoothing_factors_move_outliers_to_the_weights():
    channels, weights = np.array([1, 1, 100, 0, 2.0]), np.array([1, 1, 1, 1, 0.0])
    factors = smoothing_factors(channels, weights, 0.5)
    assert factors[3] == factors[4] == 1 and factors[2] == pytest.approx(10 * factors[0])
    assert (channels / factors).max() < 0.3 * channels.max()
    whole = smoothing_factors(channels, weights, 1.0)
    assert np.ptp((channels / whole)[:3]) < 1e-9
