"""One operator in the place of two linear layers of integers and the activation between them, or of one and its sums.

What lies between two layers of an MLP is four times as wide as what lies around them, or more; in one operator
(plugins/linear) it never leaves the cache as floats.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
from onnx import FunctionProto

from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.linear import ADD_OP_TYPE, GELU_OP_TYPE, OP_TYPE, SQUARED_RELU_OP_TYPE
from aurora_export.plugins.linear.onnx_function import block_linear_add_function, block_mlp_function


def fuse_mlp(model: ir.Model) -> tuple[int, int]:
    """Replace what is recognised, in place; returns how many MLPs, and how many other layers with a sum.

    Recognised are two BlockLinear with GELU by its tanh form, biases and a residual, or with ReluSquare and without
    them; and BlockLinear, plus a bias, plus a residual. Everything else is left as it is. Values keep their names.
    """
    counts = (_replace_each(model, _replace_mlp), _replace_each(model, _replace_sum))
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    if not used:
        return counts
    opset = model.opset_imports[""]
    functions: list[FunctionProto] = []
    if ADD_OP_TYPE in used:
        functions.append(block_linear_add_function(opset=opset))
    functions += [
        block_mlp_function(name, opset=opset) for name in (GELU_OP_TYPE, SQUARED_RELU_OP_TYPE) if name in used
    ]
    for proto in functions:
        function = ir.serde.deserialize_function(proto)
        model.functions[function.identifier()] = function
    for identifier in [key for key in model.functions if key[1] == _RELU_SQUARE and key[1] not in used]:
        del model.functions[identifier]
    model.opset_imports[DOMAIN] = OP_VERSION
    return counts


_RELU_SQUARE = "ReluSquare"


def _replace_each(model: ir.Model, replace: Callable[[ir.Graph, ir.Node], bool]) -> int:
    return sum(replace(model.graph, node) for node in list(model.graph) if _is_linear(node) and node.graph is not None)


def _replace_mlp(graph: ir.Graph, first: ir.Node) -> bool:
    """Put an MLP in the place of a layer and what follows, if that is one."""
    gelu = _biased(first.outputs[0])
    activation = _only_reader(gelu[0] if gelu is not None else first.outputs[0])
    if activation is None:
        return False
    second = _only_reader(activation.outputs[0])
    if second is None or not _is_linear(second) or _integer(second, "bits") != _integer(first, "bits"):
        return False
    if second.inputs[0] is not activation.outputs[0]:
        return False
    attributes = {
        "K": _integer(first, "K"),
        "hidden": _integer(first, "N"),
        "N": _integer(second, "N"),
        "bits": _integer(first, "bits"),
        "block_size_1": _integer(first, "block_size"),
        "block_size_2": _integer(second, "block_size"),
    }
    if gelu is None:
        if (activation.domain, activation.op_type) != (DOMAIN, _RELU_SQUARE):
            return False
        inputs, old, last = [*first.inputs, *second.inputs[1:]], [first, activation, second], second
        return _replace(graph, SQUARED_RELU_OP_TYPE, inputs, attributes, old, last)
    total = _sum(second)
    if total is None or (activation.domain, activation.op_type) != ("", "Gelu"):
        return False
    if activation.attributes.get_string("approximate", "none") != "tanh":
        return False
    bias_node, bias = gelu[0].producer(), gelu[1]
    second_bias, residual, adds = total
    if bias_node is None:
        return False
    inputs = [*first.inputs, bias, *second.inputs[1:], second_bias, residual]
    return _replace(graph, GELU_OP_TYPE, inputs, attributes, [first, bias_node, activation, second, *adds], adds[-1])


def _replace_sum(graph: ir.Graph, linear: ir.Node) -> bool:
    """Put a layer with a sum in the place of a layer and what follows, if that is one."""
    total = _sum(linear)
    if total is None:
        return False
    bias, residual, adds = total
    attributes = {name: _integer(linear, name) for name in ("K", "N", "bits", "block_size")}
    return _replace(graph, ADD_OP_TYPE, [*linear.inputs, bias, residual], attributes, [linear, *adds], adds[-1])


def _replace(
    graph: ir.Graph,
    op_type: str,
    inputs: list[ir.Value | None],
    attributes: dict[str, int],
    old: list[ir.Node],
    last: ir.Node,
) -> bool:
    node = ir.node(op_type, inputs, attributes, domain=DOMAIN, name=last.name)
    ir.convenience.replace_nodes_and_values(graph, last, old, [node], last.outputs, node.outputs)
    return True


def _sum(linear: ir.Node) -> tuple[ir.Value, ir.Value, list[ir.Node]] | None:
    """The bias and the residual that are added to a layer, one after the other, and the nodes that do it."""
    biased = _biased(linear.outputs[0])
    if biased is None:
        return None
    add = _only_reader(biased[0])
    if add is None or (add.domain, add.op_type) != ("", "Add"):
        return None
    residual = _other(add, biased[0])
    result, bias_node = add.outputs[0], biased[0].producer()
    if residual is None or bias_node is None or residual.shape is None or residual.shape != result.shape:
        return None
    if residual.shape != biased[0].shape:
        return None
    return biased[1], residual, [bias_node, add]


def _biased(product: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """A product plus a vector of weights, and that vector."""
    add = _only_reader(product)
    if add is None or (add.domain, add.op_type) != ("", "Add"):
        return None
    bias = _other(add, product)
    if bias is None or not bias.is_initializer() or bias.shape is None or len(bias.shape) != 1:
        return None
    if product.shape is None or bias.shape[0] != product.shape[-1]:
        return None
    return add.outputs[0], bias


def _other(add: ir.Node, value: ir.Value) -> ir.Value | None:
    """What is added to a value; None if that is the value itself."""
    others = [read for read in add.inputs if read is not value]
    return others[0] if len(others) == 1 else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _is_linear(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == (DOMAIN, OP_TYPE)


def _integer(node: ir.Node, name: str) -> int:
    return node.attributes[name].as_int()
