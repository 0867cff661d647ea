"""Put one operator in the place of what merges and sorts the tokens of a vision block: `aurora::MergeTokens`.

About ninety small nodes a block take longer to start than to run on a CPU. They become the body of a model-local
function: the body is what was exported. Blocks differ only in numbers, such as how many tokens they have; those become
attributes of the node. A block that merges nothing, or that the exporter made otherwise than most, is left as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir
from onnx import AttributeProto, FunctionProto, NodeProto, helper, numpy_helper

from aurora_export.config import MergeConfig
from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.attention import OP_TYPE as ATTENTION_OP
from aurora_export.plugins.merge import ATTRIBUTES, INPUTS, OP_TYPE, ORDERS, OUTPUTS

METRIC_OPERATORS = (ATTENTION_OP, "ReduceMean")
"""What the metric comes from."""


def fuse_merging(model: ir.Model, merges: Sequence[int], config: MergeConfig) -> int:
    """Replace the merging of every block of a vision graph with narrow weights, in place; returns of how many.

    merges: how many tokens each block merges away.
    """
    graph = model.graph
    found = [block for layer, r in enumerate(merges) if r and (block := _find(graph, layer)) is not None]
    if not found:
        return 0
    ((usual, _),) = Counter(block.structure for block in found).most_common(1)
    found = [block for block in found if block.structure == usual]
    names = _attribute_names([block.numbers for block in found])
    function = ir.serde.deserialize_function(_function(found[0], names, model.opset_imports[""]))
    for block in found:
        block.replace(graph, merges[block.layer], config, names)
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = OP_VERSION
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
    return len(found)


class _Merging:
    """The nodes of one block, written anew: names count up, and say nothing of the layer."""

    def __init__(
        self, layer: int, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], nodes: list[ir.Node]
    ) -> None:
        self.layer, self.inputs, self.outputs, self.nodes = layer, inputs, outputs, nodes
        self.body: list[NodeProto] = []
        self.numbers: list[np.ndarray] = []
        """constants in the order in which the body reads them"""
        self._n_names = 0
        self._names = dict(zip(inputs, INPUTS, strict=True)) | dict(zip(outputs, OUTPUTS, strict=True))
        for node in nodes:
            self._write(node)

    @property
    def structure(self) -> tuple[bytes, ...]:
        """The same for blocks that differ only in numbers."""
        return tuple(node.SerializeToString(deterministic=True) for node in self.body)

    def replace(self, graph: ir.Graph, r: int, config: MergeConfig, names: dict[int, str]) -> None:
        """Put the operator in the place of the nodes."""
        order = ORDERS[config.order if config.sort == "per_layer" else "none"]
        values = (r, int(config.protect_first), int(config.split == "patches_only"), order)
        attributes: dict[str, object] = dict(zip(ATTRIBUTES, values, strict=True))
        attributes |= {name: ir.tensor(self.numbers[i]) for i, name in names.items()}
        node = ir.node(
            OP_TYPE,
            list(self.inputs),
            attributes,  # type: ignore[arg-type]
            domain=DOMAIN,
            num_outputs=len(self.outputs),
            name=f"block_{self.layer}_{OP_TYPE}",
        )
        ir.convenience.replace_nodes_and_values(
            graph, self.nodes[-1], self.nodes, [node], list(self.outputs), list(node.outputs)
        )

    def _write(self, node: ir.Node) -> None:
        reads = [self._read(value) if value is not None else "" for value in node.inputs]
        for value in node.outputs:
            self._names.setdefault(value, self._new_name())
        proto = ir.serde.serialize_node(node)
        proto.ClearField("name")
        proto.input[:] = reads
        proto.output[:] = [self._names[value] for value in node.outputs]
        self.body.append(proto)
        readers = {reader.op_type for reader in node.outputs[0].consumers()}
        if node.op_type == "Reshape" and readers == {"GatherElements"}:
            # Of an odd number of tokens the last place is cut off here; of an even one the exporter leaves that out.
            self._names[node.outputs[0]] = self._new_name()
            ends = [np.array([number], np.int64) for number in (0, _sizes(node.outputs[0])[1], 1, 1)]
            reads = [proto.output[0], *(self._number(end) for end in ends)]
            self.body.append(helper.make_node("Slice", reads, [self._names[node.outputs[0]]]))

    def _read(self, value: ir.Value) -> str:
        """The name of a value in the body; constants are named at each use, since blocks share them by chance."""
        if value.const_value is not None:
            return self._constant(value.const_value.numpy())
        if _is_frame_count(value) and value not in self._names:
            self._names[value] = self._new_name()
            self.body.append(helper.make_node("Shape", ["x"], [self._names[value]], start=0, end=1))
        return self._names[value]

    def _constant(self, array: np.ndarray) -> str:
        n = array.shape[-1] if array.ndim else 0
        index = np.arange(n)
        if array.ndim != 3 or array.dtype != np.bool_ or not np.array_equal(array, [index < index[:, None]]):
            return self._number(array)
        # Which index is before which: as large as all scores, and made of a row.
        pieces = [f"{self._number(index.reshape(shape))}" for shape in ((1, 1, n), (1, n, 1))]
        name = f"before_{len(self.numbers)}"
        self.body.append(helper.make_node("Less", pieces, [name]))
        return name

    def _new_name(self) -> str:
        self._n_names += 1
        return f"value_{self._n_names}"

    def _number(self, array: np.ndarray) -> str:
        self.numbers.append(array)
        return f"number_{len(self.numbers) - 1}"


def _find(graph: ir.Graph, layer: int) -> _Merging | None:
    """What merges in a block; None if it is not what is known."""
    prefix = f"vision.encoder.layers.{layer}."
    norm = graph.initializers[f"{prefix}layer_norm2.weight"].consumers()[0]
    x = graph.initializers[f"{prefix}self_attn.out_proj.weight.int8"].consumers()[0].outputs[0]
    while [reader.op_type for reader in x.consumers()] == ["Add"]:
        x = x.consumers()[0].outputs[0]  # the bias, the residual stream
    merged = norm.inputs[0]
    region = _between(graph, x.producer(), norm)
    values = [value for node in region for value in node.outputs]
    metric = [value for value in _read_by(region) if _is(value, 3, ir.DataType.FLOAT) and _comes_from_metric(value)]
    if merged is None or len(set(metric)) != 1:
        return None
    sizes = [value for value in values if _is(value, 2, ir.DataType.FLOAT) and _sizes(value)[1] == _sizes(merged)[1]]
    # The last of their kind: what the block hands on.
    outside = set(_read_by(region)) - set(values)
    owner_in = [value for value in outside if _is(value, 2, ir.DataType.INT64) and not _is_number(value)]
    sizes_in = [value for value in outside if _is(value, 2, ir.DataType.FLOAT) and not _is_number(value)]
    if len(owner_in) != 1 or len(sizes_in) != 1 or not sizes:
        return None
    owners = [value for value in values if _is(value, 2, ir.DataType.INT64) and _sizes(value) == _sizes(owner_in[0])]
    inputs, outputs = (x, metric[0], sizes_in[0], owner_in[0]), (merged, sizes[-1], owners[-1])
    nodes = _nodes_between(inputs, outputs)
    if nodes is None or not set(nodes) <= set(region):
        return None
    inner = {value for node in nodes for value in node.outputs} - set(outputs)
    if any(value.is_graph_output() or not set(value.consumers()) <= set(nodes) for value in inner):
        return None
    return _Merging(layer, inputs, outputs, nodes)


def _between(graph: ir.Graph, first: ir.Node | None, last: ir.Node) -> list[ir.Node]:
    """The nodes after one and before another, in the order in which they were traced."""
    nodes = list(graph)
    return nodes[nodes.index(first) + 1 if first is not None else 0 : nodes.index(last)]


def _nodes_between(inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> list[ir.Node] | None:
    """What computes the outputs from the inputs, each node after those that it reads; None if it reads more."""
    found: dict[ir.Node, None] = {}

    def visit(value: ir.Value | None) -> bool:
        if value is None or value in inputs or _is_number(value) or _is_frame_count(value):
            return True
        node = value.producer()
        if node is None:
            return False
        if node not in found:
            if not all(visit(read) for read in node.inputs):
                return False
            found[node] = None
        return True

    return list(found) if all(visit(value) for value in outputs) else None


def _read_by(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    return (value for node in nodes for value in node.inputs if value is not None)


def _comes_from_metric(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and node.op_type in METRIC_OPERATORS


def _is_number(value: ir.Value) -> bool:
    return value.const_value is not None


def _is_frame_count(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "Shape" or node.inputs[0] is None:
        return False
    is_first = (node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)) == (0, 1)
    return is_first and node.inputs[0].name == "frames"


def _is(value: ir.Value, n_axes: int, dtype: ir.DataType) -> bool:
    return len(_sizes(value)) == n_axes and value.dtype == dtype


def _sizes(value: ir.Value) -> list[int | ir.SymbolicDim]:
    return list(value.shape) if value.shape is not None else []


def _attribute_names(numbers: Sequence[list[np.ndarray]]) -> dict[int, str]:
    """Which constants differ between blocks, and the attribute that holds each; equal ones are named once.

    numbers: of each block, in the same order.
    """
    names: dict[int, str] = {}
    known: dict[tuple[tuple[object, ...], ...], str] = {}
    for i, of_blocks in enumerate(zip(*numbers, strict=True)):
        key = tuple((array.dtype, array.shape, array.tobytes()) for array in of_blocks)
        if len(set(key)) > 1:
            names[i] = known.setdefault(key, f"numbers_{len(known)}")
    return names


def _function(block: _Merging, names: dict[int, str], opset: int) -> FunctionProto:
    """The body of one block, with what differs between blocks as attributes."""
    constants = []
    for i, array in enumerate(block.numbers):
        node = helper.make_node("Constant", [], [f"number_{i}"])
        if i in names:
            node.attribute.append(AttributeProto(name="value", ref_attr_name=names[i], type=AttributeProto.TENSOR))
        else:
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(array)))
        constants.append(node)
    return helper.make_function(
        DOMAIN,
        OP_TYPE,
        inputs=list(INPUTS),
        outputs=list(OUTPUTS),
        nodes=[*constants, *block.body],
        opset_imports=[helper.make_opsetid("", opset)],
        attributes=[*ATTRIBUTES, *dict.fromkeys(names.values())],
    )
