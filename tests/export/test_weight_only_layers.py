"""Single linear layers with 8-bit weights: any number of inputs, what is left alone, and the codes themselves."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurora_export.export.rounding import BITS, round_weight
from aurora_export.export.weight_only import quantize_weights
from block_linear import dequantized, error, open_session

ACTIVATION_ROUNDING = 0.03
"""What rounding the activations to 8 bits may change in the result of one layer, of its largest; 1 % was seen."""

LARGEST_ERROR = {8: 1 / 254 + 1e-6, 4: 0.3}
"""Of a weight, over the largest of its matrix: half a step, and at 4 bits what is clipped."""


def layer(weight, *, bias=None, op_type="MatMul", name=None, **attributes):
    """A graph of one linear layer; weight: (N, K)."""
    n_outputs, n_inputs = weight.shape
    name = name or {"MatMul": "part.weight.transposed", "Gemm": "part.weight"}[op_type]
    tensors = [numpy_helper.from_array(weight if op_type == "Gemm" else np.ascontiguousarray(weight.T), name)]
    if bias is not None:
        tensors.append(numpy_helper.from_array(bias, "part.bias"))
    free = ["rows"] if op_type == "Gemm" else ["B", "T"]
    node = helper.make_node(op_type, ["x", *(tensor.name for tensor in tensors)], ["y"], name="linear", **attributes)
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*free, n_inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*free, n_outputs])],
        tensors,
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# 320 is 2.5 blocks; 4304, SigLIP's, is 33.6; 7 and 48 are less than one, and no power of two.
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("n_inputs", [7, 48, 64, 100, 128, 320, 4304])
def test_inputs_that_blocks_do_not_cover(n_inputs, bits):
    weight = random(24, n_inputs)
    weight[3], weight[4, -1] = 0, 30
    model = layer(weight)
    assert quantize_weights(model, bits=bits) == ("part.weight",)
    proto = ir.to_proto(model)
    stored_weight = dequantized(proto)["part.weight"]
    assert error(stored_weight, weight) < LARGEST_ERROR[bits]
    assert not stored_weight[3].any()
    assert not np.isnan(stored_weight).any()
    sessions = {limit: open_session(proto, exact=limit < 1e-3) for limit in (1e-5, ACTIVATION_ROUNDING)}
    for shape in ((1, 1), (1, 7), (3, 1), (3, 7), (1, 64)):
        x = random(*shape, n_inputs, seed=1)
        for limit, session in sessions.items():
            assert error(session.run(None, {"x": x})[0], x @ stored_weight.T) < limit, shape


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
def test_block_sizes(block_size, bits):
    weight, x = random(24, 320), random(3, 7, 320, seed=1)
    model = layer(weight)
    quantize_weights(model, bits=bits, block_size=block_size)
    proto = ir.to_proto(model)
    (node,) = proto.graph.node
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    expected = {"K": 320, "N": 24, "bits": bits, "block_size": block_size}
    assert attributes == expected
    stored_weight = dequantized(proto)["part.weight"]
    assert error(stored_weight, weight) < LARGEST_ERROR[bits]
    assert error(open_session(proto, exact=True).run(None, {"x": x})[0], x @ stored_weight.T) < 1e-5


@pytest.mark.parametrize("bias", [None, random(24, seed=2)], ids=["no bias", "bias"])
def test_gemm(bias):
    weight, x = random(24, 320), random(5, 320, seed=1)
    model = layer(weight, op_type="Gemm", bias=bias, transB=1)
    assert quantize_weights(model) == ("part.weight",)
    proto = ir.to_proto(model)
    assert [node.name for node in proto.graph.node] == (["linear"] if bias is None else ["linear", "linear.bias"])
    onnx.checker.check_model(proto, full_check=True)
    expected = x @ dequantized(proto)["part.weight"].T + (0 if bias is None else bias)
    assert error(open_session(proto, exact=True).run(None, {"x": x})[0], expected) < 1e-5


LEFT_ALONE = {
    "another name": lambda: layer(random(8, 32), name="part.time_maa_w1"),
    "MatMul of what Gemm takes": lambda: layer(random(8, 32), name="part.weight"),
    "a vector": lambda: ir.from_proto(_product_with_vector()),
    "Gemm (K, N)": lambda: layer(random(32, 32), op_type="Gemm"),
    "Gemm with a factor": lambda: layer(random(8, 32), op_type="Gemm", transB=1, alpha=2.0),
    "Gemm, transposed input": lambda: layer(random(8, 32), op_type="Gemm", transA=1, transB=1),
    "read by something else": lambda: _also_read(layer(random(8, 32))),
    "float16": lambda: layer(random(8, 32).astype(np.float16)),
    "in a branch": lambda: ir.from_proto(_in_a_branch()),
    "on the left": lambda: _swapped(layer(random(32, 32))),
}


def _product_with_vector():
    proto = ir.to_proto(layer(random(1, 32)))
    proto.graph.initializer[0].dims[:] = [32]
    proto.graph.output[0].type.tensor_type.shape.dim.pop()
    return proto


def _in_a_branch():
    proto = ir.to_proto(layer(random(8, 32)))
    branch = helper.make_graph([proto.graph.node.pop()], "branch", [], [proto.graph.output[0]])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "is_true"))
    proto.graph.node.append(helper.make_node("If", ["is_true"], ["y"], then_branch=branch, else_branch=branch))
    return proto


def _also_read(model):
    weight = model.graph.initializers["part.weight.transposed"]
    model.graph.append(ir.node("Identity", [weight], name="copy"))
    return model


def _swapped(model):
    (node,) = model.graph
    x, weight = node.inputs
    node.replace_input_with(0, weight)
    node.replace_input_with(1, x)
    return model


@pytest.mark.parametrize("make", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_what_is_no_linear_layer_is_left_alone(make):
    model = make()
    before = ir.to_proto(model).SerializeToString()
    assert quantize_weights(model) == ()
    assert ir.to_proto(model).SerializeToString() == before


def test_layers_that_share_a_weight_share_its_codes():
    model = layer(random(32, 32))
    (node,) = model.graph
    weight = node.inputs[1]
    model.graph.append(second := ir.node("MatMul", [node.outputs[0], weight], name="second"))
    second.outputs[0].name = "z"
    assert quantize_weights(model) == ("part.weight",)
    assert [node.op_type for node in model.graph] == ["BlockLinear", "BlockLinear"]
    assert list(model.graph.initializers) == ["part.weight.int8", "part.weight.scales"]


@pytest.mark.parametrize("bits", [0, 2, 3, 16])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=rf"^weights of {bits} bits are not supported: give one of \(8, 4\)$"):
        quantize_weights(layer(random(8, 32)), bits=bits)


@pytest.mark.parametrize("block_size", [0, 8, 100, 512])
def test_other_block_sizes_are_refused(block_size):
    with pytest.raises(ValueError, match=rf"^a block of {block_size} weights has no kernel in ONNX Runtime: give one"):
        quantize_weights(layer(random(8, 32)), block_size=block_size)


def test_some_weights_stay_finer():
    model = layer(random(32, 64))
    (node,) = model.graph
    finer = ir.Value(name="head.weight.transposed", const_value=ir.tensor(random(32, 8)))
    finer.shape, finer.dtype = ir.Shape([32, 8]), ir.DataType.FLOAT
    model.graph.register_initializer(finer)
    model.graph.append(ir.node("MatMul", [node.outputs[0], finer], name="head"))
    quantize_weights(model, bits=4, finer=("head.weight",))
    names = ("part.weight.int4", "part.weight.scales", "head.weight.int8", "head.weight.scales")
    assert tuple(model.graph.initializers) == names


def test_another_rounding_takes_the_place_of_ours():
    asked = []

    def rounding(name, weight, bits, block_size):
        asked.append((name, weight.shape, bits, block_size))
        return round_weight(name, -weight, bits, block_size)

    weight = random(32, 64)
    model = layer(weight)
    quantize_weights(model, bits=4, rounding=rounding)
    assert error(dequantized(ir.to_proto(model))["part.weight"], -weight) < LARGEST_ERROR[4]
    assert set(asked) == {("part.weight", (32, 64), 4, 64)}
