"""BlockLinear as an ONNX function: the operator of ONNX Runtime that reads the same weights.

Unlike the other functions of ours it is no standard operator: a graph with 8-bit weights needs ONNX Runtime, with our
library or without.
"""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, helper

from aurora_export.plugins import DOMAIN
from aurora_export.plugins.linear import ATTRIBUTES, INPUTS, OP_TYPE, OUTPUTS

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
    for name in ATTRIBUTES:
        attribute = product.attribute.add()
        attribute.name, attribute.ref_attr_name, attribute.type = name, name, AttributeProto.INT
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        inputs=list(INPUTS),
        outputs=list(OUTPUTS),
        nodes=[product],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(BODY_DOMAIN, 1)],
        attributes=list(ATTRIBUTES),
    )
