"""BlockLinear as an ONNX function: the operator of ONNX Runtime that reads the same weights. The others are made of it.

Unlike the other functions of ours it is no standard operator: a graph with 8-bit weights needs ONNX Runtime, with our
library or without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx import AttributeProto, FunctionProto, NodeProto, helper

from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.linear import (
    ADD_INPUTS,
    ADD_OP_TYPE,
    ATTRIBUTES,
    GELU_OP_TYPE,
    INPUTS,
    MLP_ATTRIBUTES,
    MLP_INPUTS,
    OP_TYPE,
    OUTPUTS,
    SQUARED_RELU_OP_TYPE,
)

BODY_DOMAIN = "com.microsoft"

ACCURACY_LEVEL = 4
"""The kernel rounds activations to 8 bits too, by blocks of the same size, and multiplies integers.

That about doubles the squared error. At level 0 the activations stay float32, but the weights are unpacked at each run:
one token then takes longer than with float32 weights, ten times and more.
"""


def block_linear_function(*, opset: int) -> FunctionProto:
    """The function `aurora::BlockLinear`; opset: version of the standard operators in the model it goes into."""
    product = helper.make_node(
        "MatMulNBits", list(INPUTS), list(OUTPUTS), domain=BODY_DOMAIN, accuracy_level=ACCURACY_LEVEL
    )
    _refer(product, {name: name for name in ATTRIBUTES})
    return _function(OP_TYPE, INPUTS, [product], ATTRIBUTES, domain=(BODY_DOMAIN, 1), opset=opset)


def block_linear_add_function(*, opset: int) -> FunctionProto:
    """The function `aurora::BlockLinearAdd`, on BlockLinear."""
    nodes = [*_typed_linear(list(INPUTS), "product", {name: name for name in ATTRIBUTES}), *_added("product", "bias")]
    return _function(ADD_OP_TYPE, ADD_INPUTS, nodes, ATTRIBUTES, domain=(DOMAIN, OP_VERSION), opset=opset)


def block_mlp_function(op_type: str, *, opset: int) -> FunctionProto:
    """The function `aurora::BlockMlpGelu` or `aurora::BlockMlpSquaredRelu`, on BlockLinear."""
    sizes_1 = {"K": "K", "N": "hidden", "bits": "bits", "block_size": "block_size_1"}
    sizes_2 = {"K": "hidden", "N": "N", "bits": "bits", "block_size": "block_size_2"}
    first = _typed_linear(["x", "codes_1", "scales_1"], "product_1", sizes_1)
    second = ["hidden", "codes_2", "scales_2"]
    nodes = {
        GELU_OP_TYPE: [
            *first,
            helper.make_node("Add", ["product_1", "bias_1"], ["sum_1"]),
            helper.make_node("Gelu", ["sum_1"], ["hidden"], approximate="tanh"),
            *_typed_linear(second, "product_2", sizes_2),
            *_added("product_2", "bias_2"),
        ],
        SQUARED_RELU_OP_TYPE: [
            *first,
            helper.make_node("Relu", ["product_1"], ["positive"]),
            helper.make_node("Mul", ["positive", "positive"], ["hidden"]),
            _linear(second, next(iter(OUTPUTS)), sizes_2),
        ],
    }[op_type]
    return _function(op_type, MLP_INPUTS[op_type], nodes, MLP_ATTRIBUTES, domain=(DOMAIN, OP_VERSION), opset=opset)


def _linear(inputs: Sequence[str], output: str, sizes: Mapping[str, str]) -> NodeProto:
    node = helper.make_node(OP_TYPE, inputs, [output], domain=DOMAIN)
    _refer(node, sizes)
    return node


def _typed_linear(inputs: Sequence[str], output: str, sizes: Mapping[str, str]) -> list[NodeProto]:
    """A layer whose result has a type for shape inference too, which knows nothing of MatMulNBits."""
    return [_linear(inputs, f"{output}_as_is", sizes), helper.make_node("CastLike", [f"{output}_as_is", "x"], [output])]


def _added(product: str, bias: str) -> list[NodeProto]:
    return [
        helper.make_node("Add", [product, bias], ["biased"]),
        helper.make_node("Add", ["residual", "biased"], list(OUTPUTS)),
    ]


def _refer(node: NodeProto, names: Mapping[str, str]) -> None:
    """Give a node integers of the function: name at the node -> name at the function."""
    for name, of_function in names.items():
        node.attribute.append(AttributeProto(name=name, ref_attr_name=of_function, type=AttributeProto.INT))


def _function(
    op_type: str,
    inputs: Mapping[str, str],
    nodes: Sequence[NodeProto],
    attributes: Sequence[str],
    *,
    domain: tuple[str, int],
    opset: int,
) -> FunctionProto:
    """domain: of the operators in the body that are not standard, and its version."""
    return helper.make_function(
        DOMAIN,
        op_type,
        inputs=list(inputs),
        outputs=list(OUTPUTS),
        nodes=list(nodes),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(*domain)],
        attributes=list(attributes),
    )
