"""Cut the pieces between the linear layers of RWKV-6 blocks out of a graph, and put one operator in the place of each.

A CPU loses a third of a decoding step to over a thousand small operators. The pieces of plugins/mix are found by what
they lie between (weights, states, the residual stream), and their nodes become the body of a model-local function: the
body is what was exported, one definition for all layers, and runs where the native operator is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx import AttributeProto, FunctionProto, NodeProto, helper, numpy_helper

from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.mix import PIECES

MAX_CONSTANT_BYTES = 4096
"""Of what goes into a body as a constant: shapes, axes, the ones of a norm without weights."""

BATCH_AND_TOKENS = {("wkv", 1): 0, ("embeddings", 1): 1}
"""Input of the graph and its axis -> the axis of a piece's first input that has the same size."""


def fuse_blocks(model: ir.Model, n_layers: int) -> None:
    """Replace the pieces of every block of a language graph of RWKV-6 with narrow weights, in place.

    Narrow are those of linear layers (weight_only.py) and the low-rank matrices (low_rank.py).

    Values keep their names. Raises RuntimeError, with the graph in an unknown state, if a block is not as expected, or
    not like the first: then the exporter has changed, and plugins/mix would compute something else.
    """
    graph = model.graph
    functions: dict[str, FunctionProto] = {}
    for layer in range(n_layers):
        for op_type, (inputs, outputs) in _Block(graph, layer).pieces().items():
            # By name: a piece that was replaced has left other values of the same names.
            values = _values(graph)
            piece = _Cut(
                op_type,
                {name: values[value.name or ""] for name, value in inputs.items()},
                {name: values[value.name or ""] for name, value in outputs.items()},
            )
            function = piece.function(model.opset_imports[""])
            if functions.setdefault(op_type, function).SerializeToString(deterministic=True) != (
                function.SerializeToString(deterministic=True)
            ):
                raise RuntimeError(f"block {layer}: {op_type} is not what it is in block 0")
            piece.replace(graph, f"block_{layer}_{op_type}")
    for function in functions.values():
        body = ir.serde.deserialize_function(function)
        model.functions[body.identifier()] = body
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)  # a shape that only pieces needed
    graph.sort()
    model.opset_imports[DOMAIN] = OP_VERSION


Ends = tuple[dict[str, ir.Value], dict[str, ir.Value]]
"""The inputs and outputs of a piece by name."""


class _Block:
    """One block of the graph: the values that its pieces lie between."""

    def __init__(self, graph: ir.Graph, layer: int) -> None:
        self._graph, self._layer = graph, layer
        self._prefix = f"language.blocks.{layer}."

    def pieces(self) -> dict[str, Ends]:
        """Operator -> inputs and outputs."""
        linear = {name: self._only_reader(f"{name}.weight.scales") for name in _LINEAR_LAYERS}
        into = {name: _input(node, 0) for name, node in linear.items()}
        out = {name: node.outputs[0] for name, node in linear.items()}
        wkv = out["att.receptance"].consumers()[0].outputs[0].consumers()[0]
        if wkv.op_type != "Wkv6":
            raise RuntimeError(f"{self._prefix}att: the receptance goes to {wkv.op_type}, not to Wkv6")
        total = _input(self._only_reader("ln2.weight"), 0)
        last = _values(self._graph)[f"language.layers.{self._layer}"]
        x = _input(self._only_reader("ln1.weight"), 0)
        ends: dict[str, tuple[dict[str, ir.Value], tuple[ir.Value, ...]]] = {
            "TimeMixInputs6Int8": (
                {"x": x, "shift": self._shift("att_shift")},
                (
                    *(into[f"att.{name}"] for name in ("receptance", "key", "value", "gate")),
                    _input(_producer(_input(wkv, 3)), 0),
                    self._next_shift("next_att_shift"),
                ),
            ),
            "HeadNormGate6": ({"y": wkv.outputs[0], "gate": out["att.gate"]}, (into["att.output"],)),
            "ChannelMixInputs6": (
                {"x": x, "update": out["att.output"], "shift": self._shift("ffn_shift")},
                (total, into["ffn.key"], into["ffn.receptance"], self._next_shift("next_ffn_shift")),
            ),
            "ReluSquare": ({"x": out["ffn.key"]}, (into["ffn.value"],)),
            "ChannelMixOutput6": (
                {"x": total, "receptance": out["ffn.receptance"], "value": out["ffn.value"]},
                (last,),
            ),
        }
        return {
            op_type: (
                {**inputs, **{name: self._parameter(name) for name in PIECES[op_type].parameters}},
                dict(zip(PIECES[op_type].outputs, outputs, strict=True)),
            )
            for op_type, (inputs, outputs) in ends.items()
        }

    def _parameter(self, name: str) -> ir.Value:
        value = self._graph.initializers.get(self._prefix + name)
        if value is None:
            raise RuntimeError(f"the graph has no weight {self._prefix}{name}")
        return value

    def _only_reader(self, parameter: str) -> ir.Node:
        readers = self._parameter(parameter).consumers()
        if len(readers) != 1:
            raise RuntimeError(f"{self._prefix}{parameter} has {len(readers)} readers, expected 1")
        return readers[0]

    def _shift(self, name: str) -> ir.Value:
        """What the layer takes from a stacked state."""
        (state,) = (value for value in self._graph.inputs if value.name == name)
        for node in state.consumers():
            index = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] is not None else None
            if node.op_type == "Gather" and index is not None and int(index.numpy()) == self._layer:
                return node.outputs[0]
        raise RuntimeError(f"no Gather takes layer {self._layer} of {name}")

    def _next_shift(self, name: str) -> ir.Value:
        (stacked,) = (value for value in self._graph.outputs if value.name == name)
        return _input(_producer(_input(_producer(stacked), self._layer)), 0)


_LINEAR_LAYERS = (
    *(f"att.{name}" for name in ("receptance", "key", "value", "gate", "output")),
    *(f"ffn.{name}" for name in ("key", "receptance", "value")),
)


@dataclass
class _Cut:
    """The nodes of one piece. Sizes that the exporter takes from inputs of the graph are taken from the piece's own."""

    op_type: str
    inputs: Mapping[str, ir.Value]
    outputs: Mapping[str, ir.Value]
    nodes: list[ir.Node] = field(init=False)
    epsilon: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.nodes = _nodes_between(self.inputs.values(), self.outputs.values())
        inside = set(self.nodes)
        for node in self._own_nodes():
            for value in set(node.outputs) - set(self.outputs.values()):
                if value.is_graph_output() or not inside.issuperset(value.consumers()):
                    raise RuntimeError(f"{self.op_type}: {value.name} is also read elsewhere")

    def _own_nodes(self) -> list[ir.Node]:
        """Those that depend on the inputs; the others compute shapes, which pieces share."""
        known = {value for name, value in self.inputs.items() if "." not in name}
        own = []
        for node in self.nodes:
            if not known.isdisjoint(value for value in node.inputs if value is not None):
                own.append(node)
                known.update(node.outputs)
        return own

    def function(self, opset: int) -> FunctionProto:
        """The nodes as a function; names say nothing of the layer."""
        names = {value: _plain(name) for name, value in self.inputs.items()}
        names |= {value: _plain(f"{name}.out") for name, value in self.outputs.items()}
        first = next(iter(names.values()))
        body: list[NodeProto] = []
        for node in self.nodes:
            for value in filter(None, node.inputs):
                if value not in names:
                    names[value] = f"constant_{len(names)}"
                    body.append(_constant(value, names[value], first))
            names.update(
                {value: f"value_{len(names) + i}" for i, value in enumerate(node.outputs) if value not in names}
            )
            body.append(self._node(node, names))
        return helper.make_function(
            DOMAIN,
            self.op_type,
            [names[value] for value in self.inputs.values()],
            [names[value] for value in self.outputs.values()],
            body,
            [helper.make_opsetid("", opset)],
            attributes=["epsilon"] if PIECES[self.op_type].has_epsilon else [],
        )

    def _node(self, node: ir.Node, names: Mapping[ir.Value, str]) -> NodeProto:
        proto = ir.serde.serialize_node(node)
        proto.ClearField("name")
        proto.input[:] = [names[value] if value is not None else "" for value in node.inputs]
        proto.output[:] = [names[value] for value in node.outputs]
        if node.op_type == "LayerNormalization":
            if self.epsilon is not None:
                raise RuntimeError(f"{self.op_type}: has more than one norm")
            (attribute,) = (entry for entry in proto.attribute if entry.name == "epsilon")
            self.epsilon = attribute.f
            attribute.CopyFrom(AttributeProto(name="epsilon", ref_attr_name="epsilon", type=AttributeProto.FLOAT))
        return proto

    def replace(self, graph: ir.Graph, name: str) -> None:
        """Put the operator in the place of the nodes."""
        if (self.epsilon is not None) != PIECES[self.op_type].has_epsilon:
            raise RuntimeError(f"{self.op_type}: has {'a' if self.epsilon is not None else 'no'} norm")
        attributes = {} if self.epsilon is None else {"epsilon": self.epsilon}
        node = ir.node(
            self.op_type,
            list(self.inputs.values()),
            attributes,
            domain=DOMAIN,
            num_outputs=len(self.outputs),
            name=name,
        )
        own = self._own_nodes()
        ir.convenience.replace_nodes_and_values(graph, own[-1], own, [node], list(self.outputs.values()), node.outputs)


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Every value of a graph by name."""
    computed = (value for node in graph for value in node.outputs)
    return {value.name or "": value for value in (*graph.inputs, *graph.initializers.values(), *computed)}


def _nodes_between(inputs: Iterable[ir.Value], outputs: Iterable[ir.Value]) -> list[ir.Node]:
    """What computes the outputs from the inputs, but for sizes and constants; each node after those that it reads.

    The order comes from the structure alone: in the graph, a shape that blocks share stands in the first of them.
    """
    ends: set[ir.Value] = set(inputs)
    found: dict[ir.Node, None] = {}

    def visit(value: ir.Value) -> None:
        node = value.producer()
        if node is None or node in found or value in ends or _is_size(value):
            return
        for read in node.inputs:
            if read is not None:
                visit(read)
        found[node] = None

    for value in outputs:
        visit(value)
    return list(found)


def _is_size(value: ir.Value) -> bool:
    return _size_axis(value) is not None


def _size_axis(value: ir.Value) -> int | None:
    """The axis of a piece's input that has the size that a Shape node takes from an input of the graph."""
    node = value.producer()
    if node is None or node.op_type != "Shape":
        return None
    start, end = node.attributes.get_int("start", 0), node.attributes.get_int("end", 0)
    axis = BATCH_AND_TOKENS.get((_input(node, 0).name or "", start))
    if axis is None or end != start + 1:
        raise RuntimeError(f"{value.name}: sizes {start} to {end} of {_input(node, 0).name} are not those of a piece")
    return axis


def _constant(value: ir.Value, name: str, first: str) -> NodeProto:
    """What gives a value that is neither an input of a piece nor computed in it: a size, or an initializer."""
    axis = _size_axis(value)
    if axis is not None:
        return helper.make_node("Shape", [first], [name], start=axis, end=axis + 1)
    tensor = value.const_value
    if tensor is None or tensor.nbytes > MAX_CONSTANT_BYTES or (value.name or "").startswith("language."):
        raise RuntimeError(f"{value.name} is read by a piece that does not know it")
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(tensor.numpy()))


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise RuntimeError(f"node {node.name} ({node.op_type}) has no input {index}")
    return value


def _producer(value: ir.Value) -> ir.Node:
    node = value.producer()
    if node is None:
        raise RuntimeError(f"{value.name} is computed by no node")
    return node
