"""Put one operator in the place of the attention of each vision block, between its 8-bit linear layers.

The operator is `aurora::HeadsAttention` (plugins/attention). What it replaces is recognised node by node: a graph that
says anything else is refused, so that the function always is what was exported.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.attention import MAX_HEAD_SIZE, OP_TYPE
from aurora_export.plugins.attention.onnx_function import heads_attention_function

Heads = tuple[int, int, float]
"""Number of heads, their size, and what queries are multiplied by."""


def fuse_attention(model: ir.Model, n_layers: int) -> bool:
    """Replace the attention of every block of a vision graph with 8-bit linear layers, in place; tell if it was done.

    It is not done where token sizes are added to the logits (`merge.proportional_attention`), nor for heads larger than
    MAX_HEAD_SIZE. Raises RuntimeError, with the graph in an unknown state, if a block is not as expected.
    """
    graph = model.graph
    found = [_Attention(graph, layer) for layer in range(n_layers)]
    if any(attention.is_proportional for attention in found):
        return False
    (heads,) = {attention.heads() for attention in found}
    n_heads, head_size, scale = heads
    if head_size > MAX_HEAD_SIZE:
        return False
    for attention in found:
        attention.replace(graph, n_heads, scale)
    function = ir.serde.deserialize_function(heads_attention_function(n_heads, scale, opset=model.opset_imports[""]))
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = OP_VERSION
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    return True


class _Attention:
    """The attention of one block."""

    def __init__(self, graph: ir.Graph, layer: int) -> None:
        self._prefix = f"vision.encoder.layers.{layer}.self_attn."
        self._layer = layer
        self._products = [self._product(graph, f"{name}_proj.weight.int8") for name in "qkv"]
        self._output = self._product(graph, "out_proj.weight.int8")
        self._mixed = self._before(self._output.inputs[0], "Reshape")
        self._values = self._before(self._before(self._mixed.inputs[0], "Transpose").inputs[0], "MatMul")
        self._softmax = self._before(self._values.inputs[0], "Softmax")
        logits = self._softmax.inputs[0]
        self.is_proportional = logits is not None and logits.producer() is not None and _op_type(logits) == "Add"

    def heads(self) -> Heads:
        """What the nodes say; they must be exactly those of model/vision.py."""
        logits = self._before(self._softmax.inputs[0], "MatMul")
        scaled = self._before(logits.inputs[0], "Mul")
        turned = self._before(logits.inputs[1], "Transpose")
        self._key_heads = turned.inputs[0]
        sizes = {
            self._view(value, product)
            for value, product in zip(
                (scaled.inputs[0], self._key_heads, self._values.inputs[1]), self._products, strict=True
            )
        }
        if len(sizes) != 1 or self._softmax.attributes.get_int("axis", -1) != -1:
            raise self._unexpected("heads differ")
        return (*sizes.pop(), float(_constant(scaled.inputs[1])))

    def replace(self, graph: ir.Graph, n_heads: int, scale: float) -> None:
        """Put the operator in the place of the nodes, and of the mean of the keys."""
        biases = [self._bias(product) for product in self._products]
        node = ir.node(
            OP_TYPE,
            [*(product.outputs[0] for product in self._products), *biases],
            {"n_heads": n_heads, "scale": scale},
            domain=DOMAIN,
            num_outputs=2,
            name=f"block_{self._layer}_{OP_TYPE}",
        )
        assert self._key_heads is not None
        means = [reader for reader in self._key_heads.consumers() if reader.op_type == "ReduceMean"]
        if len(means) > 1 or any(np.ravel(_constant(mean.inputs[1])).tolist() != [1] for mean in means):
            raise self._unexpected("the mean over the heads")
        old = [self._mixed.outputs[0], *(mean.outputs[0] for mean in means)]
        ir.convenience.replace_nodes_and_values(
            graph, self._mixed, [self._mixed, *means], [node], old, list(node.outputs[: len(old)])
        )
        node.outputs[1].name = node.outputs[1].name or f"{node.name}.metric"

    def _product(self, graph: ir.Graph, name: str) -> ir.Node:
        weight = graph.initializers.get(self._prefix + name)
        readers = () if weight is None else weight.consumers()
        if len(readers) != 1:
            raise self._unexpected(name)
        return readers[0]

    def _before(self, value: ir.Value | None, op_type: str) -> ir.Node:
        node = value.producer() if value is not None else None
        if node is None or node.op_type != op_type:
            raise self._unexpected(f"{op_type} expected before {value.name if value is not None else 'nothing'}")
        return node

    def _view(self, value: ir.Value | None, product: ir.Node) -> tuple[int, int]:
        """Heads and their size of a projection, whose bias was added."""
        turned = self._before(value, "Transpose")
        if list(turned.attributes.get_ints("perm", ())) != [0, 2, 1, 3]:
            raise self._unexpected("heads are turned otherwise")
        view = self._before(turned.inputs[0], "Reshape")
        if product.outputs[0] not in self._before(view.inputs[0], "Add").inputs:
            raise self._unexpected("heads of another projection")
        _, _, n_heads, size = np.ravel(_constant(view.inputs[1])).tolist()
        return n_heads, size

    def _bias(self, product: ir.Node) -> ir.Value:
        (add,) = product.outputs[0].consumers()
        (bias,) = (value for value in add.inputs if value is not product.outputs[0] and value is not None)
        return bias

    def _unexpected(self, what: str) -> RuntimeError:
        return RuntimeError(f"{self._prefix}: not the attention of model/vision.py: {what}")


def _op_type(value: ir.Value) -> str:
    node = value.producer()
    return node.op_type if node is not None else ""


def _constant(value: ir.Value | None) -> np.ndarray:
    if value is None or value.const_value is None:
        raise RuntimeError(f"{value.name if value is not None else 'an input'} is not a constant")
    return value.const_value.numpy()
