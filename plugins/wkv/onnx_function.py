"""WKV as ONNX functions of standard operators: the body that any runtime can run, for any T and B.

A Scan over the tokens. What does not depend on the state is done before and after it, for all tokens at once, so
that a token costs four operators (RWKV-6) or seven (RWKV-7). The Scan's body reads nothing from outside: parsers
differ in how they resolve such names.
"""

from __future__ import annotations

from onnx import FunctionProto, GraphProto, NodeProto, TensorProto, helper

from aurora_export.plugins import DOMAIN, NODE_ATTRIBUTES
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS

TOKEN_AXIS = 1


def wkv_function(op_type: str, *, opset: int) -> FunctionProto:
    """The function `aurora::Wkv6` or `aurora::Wkv7`; inputs, outputs and attributes as in its schema.

    opset: version of the standard operators, which is that of the model the function goes into.
    """
    return function_of({"Wkv6": _wkv6_nodes, "Wkv7": _wkv7_nodes}[op_type](), op_type, opset=opset)


def wkv7_function_without_matmul(*, opset: int) -> FunctionProto:
    """As `wkv_function("Wkv7")`, with sums of products in the place of the Scan's MatMuls.

    The builder of TensorRT-RTX 1.7.1 fails on a MatMul in a Scan of RWKV-7 whose length is free.
    """
    return function_of(_wkv7_nodes_without_matmul(), "Wkv7", opset=opset)


def function_of(nodes: list[NodeProto], op_type: str, *, opset: int) -> FunctionProto:
    """A body as the function of an operator, with the inputs, outputs and attributes of its schema."""
    return helper.make_function(
        DOMAIN,
        op_type,
        inputs=list(INPUTS[op_type]),
        outputs=list(OUTPUTS),
        nodes=nodes,
        opset_imports=[helper.make_opsetid("", opset)],
        attribute_protos=[helper.make_attribute(name, default) for name, default in NODE_ATTRIBUTES.items()],
    )


def _wkv6_nodes() -> list[NodeProto]:
    """y = r (S + diag(u) k v) and S <- diag(exp(w)) S + k v, with the bonus term taken out of the loop."""
    step = [
        helper.make_node("MatMul", ["row_of_receptance", "state"], ["row_of_output"]),
        helper.make_node("Mul", ["column_of_decay", "state"], ["decayed"]),
        helper.make_node("Mul", ["column_of_key", "row_of_value"], ["update"]),
        helper.make_node("Add", ["decayed", "update"], ["state_after"]),
    ]
    tokens = ["row_of_receptance", "column_of_key", "row_of_value", "column_of_decay"]
    return [
        *_axes(),
        helper.make_node("Exp", ["log_decay"], ["decay"]),
        *(_rows(name) for name in ("receptance", "value")),
        *(_columns(name) for name in ("key", "decay")),
        _scan(step, tokens, final_state="next_state", output="rows_of_remembered"),
        helper.make_node("Squeeze", ["rows_of_remembered", "axis_3"], ["remembered"]),
        helper.make_node("Mul", ["receptance", "key"], ["receptance_key"]),
        helper.make_node("Mul", ["receptance_key", "bonus"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "axis_3"], ["own_weight"], keepdims=1),
        helper.make_node("Mul", ["own_weight", "value"], ["own"]),
        helper.make_node("Add", ["remembered", "own"], ["output"]),
    ]


def _wkv7_nodes() -> list[NodeProto]:
    """S <- diag(exp(w)) S + b (a S) + k v and y = r S, with the state after the update."""
    step = [
        helper.make_node("MatMul", ["row_of_removal", "state"], ["removed"]),
        helper.make_node("Mul", ["column_of_decay", "state"], ["decayed"]),
        helper.make_node("Mul", ["column_of_replacement", "removed"], ["replaced"]),
        helper.make_node("Mul", ["column_of_key", "row_of_value"], ["update"]),
        helper.make_node("Add", ["decayed", "replaced"], ["kept"]),
        helper.make_node("Add", ["kept", "update"], ["state_after"]),
        helper.make_node("MatMul", ["row_of_receptance", "state_after"], ["row_of_output"]),
    ]
    rows, columns = ("receptance", "value", "removal"), ("decay", "key", "replacement")
    tokens = [*(f"row_of_{name}" for name in rows), *(f"column_of_{name}" for name in columns)]
    return [
        *_axes(),
        helper.make_node("Exp", ["log_decay"], ["decay"]),
        *(_rows(name) for name in rows),
        *(_columns(name) for name in columns),
        _scan(step, tokens, final_state="next_state", output="rows_of_output"),
        helper.make_node("Squeeze", ["rows_of_output", "axis_3"], ["output"]),
    ]


def _wkv7_nodes_without_matmul() -> list[NodeProto]:
    """The formula of `_wkv7_nodes`."""
    key_axis = helper.make_tensor("", TensorProto.INT64, [1], [-2])
    step = [
        helper.make_node("Constant", [], ["key_axis"], value=key_axis),
        helper.make_node("Mul", ["column_of_removal", "state"], ["products_removed"]),
        helper.make_node("ReduceSum", ["products_removed", "key_axis"], ["removed"], keepdims=1),
        helper.make_node("Mul", ["column_of_decay", "state"], ["decayed"]),
        helper.make_node("Mul", ["column_of_replacement", "removed"], ["replaced"]),
        helper.make_node("Mul", ["column_of_key", "row_of_value"], ["update"]),
        helper.make_node("Add", ["decayed", "replaced"], ["kept"]),
        helper.make_node("Add", ["kept", "update"], ["state_after"]),
        helper.make_node("Mul", ["column_of_receptance", "state_after"], ["products_received"]),
        helper.make_node("ReduceSum", ["products_received", "key_axis"], ["row_of_output"], keepdims=1),
    ]
    columns = ("receptance", "removal", "decay", "key", "replacement")
    tokens = ["row_of_value", *(f"column_of_{name}" for name in columns)]
    return [
        *_axes(),
        helper.make_node("Exp", ["log_decay"], ["decay"]),
        _rows("value"),
        *(_columns(name) for name in columns),
        _scan(step, tokens, final_state="next_state", output="rows_of_output"),
        helper.make_node("Squeeze", ["rows_of_output", "axis_3"], ["output"]),
    ]


def _axes() -> list[NodeProto]:
    """The constants that later nodes take as axes."""
    return [
        helper.make_node("Constant", [], [f"axis_{axis}"], value=helper.make_tensor("", TensorProto.INT64, [1], [axis]))
        for axis in (3, 4)
    ]


def _rows(name: str) -> NodeProto:
    """(B, T, H, N) -> (B, T, H, 1, N)."""
    return helper.make_node("Unsqueeze", [name, "axis_3"], [f"rows_of_{name}"])


def _columns(name: str) -> NodeProto:
    """(B, T, H, N) -> (B, T, H, N, 1)."""
    return helper.make_node("Unsqueeze", [name, "axis_4"], [f"columns_of_{name}"])


def _scan(step: list[NodeProto], tokens: list[str], *, final_state: str, output: str) -> NodeProto:
    """Run `step` over the tokens. tokens: its per-token inputs, each a slice of the value of that name in plural."""
    body: GraphProto = helper.make_graph(
        step,
        "wkv_step",
        inputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("state", *tokens)],
        outputs=[
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("state_after", "row_of_output")
        ],
    )
    plural = [name.replace("_of_", "s_of_", 1) for name in tokens]
    return helper.make_node(
        "Scan",
        ["state", *plural],
        [final_state, output],
        body=body,
        num_scan_inputs=len(tokens),
        scan_input_axes=[TOKEN_AXIS] * len(tokens),
        scan_output_axes=[TOKEN_AXIS],
    )
