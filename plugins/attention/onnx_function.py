"""HeadsAttention as an ONNX function of standard operators: what a graph carries, and the truth for the kernel."""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, NodeProto, helper, numpy_helper

from aurora_export.plugins import DOMAIN
from aurora_export.plugins.attention import INPUTS, OP_TYPE, OUTPUTS


def heads_attention_function(n_heads: int, scale: float, *, opset: int) -> FunctionProto:
    """The function `aurora::HeadsAttention` of a model; scale: what a query is multiplied by."""

    def constant(name: str, value: np.ndarray) -> NodeProto:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))

    nodes = [
        constant("heads", np.array([0, 0, n_heads, -1], np.int64)),
        constant("flat", np.array([0, 0, -1], np.int64)),
        constant("axis", np.array([1], np.int64)),
        constant("scale", np.array(scale, np.float32)),
    ]
    for name in ("query", "key", "value"):
        nodes += [
            helper.make_node("Add", [name, f"{name}_bias"], [f"{name}_sum"]),
            helper.make_node("Reshape", [f"{name}_sum", "heads"], [f"{name}_view"]),
            helper.make_node("Transpose", [f"{name}_view"], [f"{name}_heads"], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("Mul", ["query_heads", "scale"], ["query_scaled"]),
        helper.make_node("Transpose", ["key_heads"], ["key_turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["query_scaled", "key_turned"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "value_heads"], ["mixed_heads"]),
        helper.make_node("Transpose", ["mixed_heads"], ["mixed_view"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed_view", "flat"], ["mixed"]),
        helper.make_node("ReduceMean", ["key_heads", "axis"], ["metric"], keepdims=0),
    ]
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        inputs=list(INPUTS),
        outputs=list(OUTPUTS),
        nodes=nodes,
        opset_imports=[helper.make_opsetid("", opset)],
        attributes=["n_heads", "scale"],
    )
