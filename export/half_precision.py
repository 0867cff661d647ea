"""A float32 graph of ours made half precision: what is computed in float16, and why the rest is not.

Inputs and outputs of the graph stay as the contract has them; the Casts are inside. Which node computes in which
type is said by the tables below and one walk over the graph. A float value is one of three kinds:

    half       float16
    ordinary   float32 in the file, with nothing to lose: whoever computes in float16 casts it
    precise    float32, and so is everything computed from it, up to the next linear layer or norm

A linear layer (product with a weight) gives half, a norm gives ordinary, an operator of `ORDINARY_OPERATORS` gives
half unless it reads something precise, and every other operator, known or not, computes in float32 and gives precise.
So the merging of tokens is float32 from the mean of the keys to the merged tokens, the decay from its first product
to WKV, and the output of WKV to the product with `att.output`. Sums with a linear layer's output are half whatever
the other side is: that is the residual stream, named `language.layers.N` and `vision.layers.N`, float16.

LayerNormalization is a float32 node between Casts: engines that take types literally would have its epsilon in
float16 otherwise, where after the fold it is zero.

No weight is evaluated here: the new ones are lazy, and are converted one by one when the file is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx_ir as ir

from aurora_export.errors import IncompatibleError

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

LINEAR_OPERATORS = ("MatMul", "Gemm", "Conv")
"""Half if they have a weight that is not one of `PRECISE_WEIGHTS`."""

NORM_OPERATORS = ("LayerNormalization", "Softmax")
"""Computed in float32; their result has a small range, whatever they read, and is ordinary again.

Not a LayerNormalization without a weight of ours: that is the first half of the group norm after WKV.
"""

ARITHMETIC = ("Add", "Sub", "Mul", "Neg", "Pow", "MatMul", "Relu", "Tanh", "Sigmoid", "Gelu")
MOVES = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Expand", "Concat", "Slice", "Gather", "GatherElements")
ORDINARY_OPERATORS = frozenset((*ARITHMETIC, *MOVES))
"""Half unless an input is precise."""

PRECISE_INPUTS = ("wkv",)
"""Inputs of the graph that are precise; the others are ordinary."""

PARAMETER = re.compile(r"(language|vision|projector)\.")
"""How the name of a weight begins; other constants are the exporter's."""

PRECISE_WEIGHTS = re.compile(r"language\.blocks\.\d+\.att\.(time_decay_w[12]|w[12])(\.transposed)?")
"""Weights of linear layers that are float32 and give precise: the decay of RWKV-6 and RWKV-7, which is taken once per
token, thousands of times. What is added to their product, and what WKV reads, stays float32 by the walk."""

TYPELESS_OPERATORS = ("Shape",)
"""What they read is not cast."""

MAX_FOLD = 64
"""Over this, weights of a usual size (0.004 and more) would leave the normal range of float16, from 2^-14."""

LAYERS_PER_HALVING = 6

ONNX_EPSILON = 1e-5
"""Of a LayerNormalization that does not say its own."""

RESIDUAL_WRITERS = re.compile(
    r"language\.blocks\.(\d+\.(att\.output|ffn\.value)\.weight(\.transposed)?|0\.ln0\.(weight|bias))"
)
"""The weights whose products are added to the residual stream, and those of the norm that it begins with."""

RESIDUAL_READERS = re.compile(r"language\.(blocks\.\d+\.ln[12]|ln_out)\.weight")
"""The weights of the norms that read the residual stream."""


def overflow_fold(n_layers: int) -> int:
    """The factor s by which the residual stream of an RWKV model of so many layers is made smaller for float16.

    The residual stream of RWKV grows with the depth and passes 65504, the end of float16. The `rwkv` package
    (RESCALE_LAYER = 6) and transformers (rescale_every = 6) halve it after every sixth layer; this is where they end,
    2 ** (n_layers // 6), up to MAX_FOLD.
    """
    return int(min(2 ** (n_layers // LAYERS_PER_HALVING), MAX_FOLD))


def fold_residual(model: ir.Model, factor: int) -> None:
    """Make the residual stream of a language graph smaller by `factor`, in place; its outputs do not change at all.

    The stream is read by LayerNorms only, and LN(x / s; eps / s^2) = LN(x; eps). So what is added to it is divided
    by s, in the weights, and the epsilon of its readers by s^2. Powers of two are exact in floating point, so in
    float32 every output keeps its bits. The values `language.layers.N` are those of the model divided by `factor`.

    factor: a power of two, 1 changes nothing. Call it on a graph that is still float32, once.
    Raises ValueError for another factor; RuntimeError, with the graph unchanged, if a weight or norm is not found.
    """
    if factor < 1 or factor & (factor - 1):
        raise ValueError(f"factor is {factor}; only powers of two are exact")
    if factor == 1:
        return
    writers = [value for name, value in model.graph.initializers.items() if RESIDUAL_WRITERS.fullmatch(name)]
    readers = {
        name: [node for node, index in value.uses() if node.op_type == "LayerNormalization" and index == 1]
        for name, value in model.graph.initializers.items()
        if RESIDUAL_READERS.fullmatch(name)
    }
    _check_fold(model, [value.name or "" for value in writers], readers)
    for value in writers:
        _replace_tensor(value, partial(_divided, factor=factor), FLOAT)
    for node in (node for nodes in readers.values() for node in nodes):
        epsilon = node.attributes.get_float("epsilon", ONNX_EPSILON) / factor**2
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", epsilon)


def _check_fold(model: ir.Model, writers: list[str], readers: dict[str, list[ir.Node]]) -> None:
    """Raise RuntimeError unless every writer and reader of a model of L layers is there: a part left out is wrong."""
    n_layers = len({name.split(".")[2] for name in readers if ".blocks." in name})
    if not n_layers or len(writers) != 2 * n_layers + 2 or len(readers) != 2 * n_layers + 1:
        raise RuntimeError(
            f"{model.graph.name}: not a language graph with all its weights: "
            f"{n_layers} layers, {len(writers)} weights to divide, {len(readers)} norms"
        )
    if lost := [name for name, nodes in readers.items() if not nodes]:
        raise RuntimeError(f"{model.graph.name}: no LayerNormalization reads {', '.join(lost)}")


def to_half(model: ir.Model, *, fold: int = 1) -> None:
    """Make a float32 graph, as `trace` returns it, compute in float16 where the policy allows, in place.

    fold: see `fold_residual`; of a language graph `overflow_fold(n_layers)`, of a vision graph 1.
    The residual streams keep their names and are float16; those of the language graph are smaller by `fold`.
    Nothing is evaluated: a weight that float16 cannot hold raises IncompatibleError when the file is written.
    """
    fold_residual(model, fold)
    half_nodes = choose_half_nodes(model.graph)
    for node in half_nodes:
        for value in node.outputs:
            if value.dtype == FLOAT:
                value.dtype = HALF
    casts = _Casts(model.graph, half_nodes)
    for node in [node for node in model.graph if node.op_type not in TYPELESS_OPERATORS]:
        casts.give_inputs(node, HALF if node in half_nodes else FLOAT)
    casts.give_outputs()


def choose_half_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute in float16, by the rules in the docstring of this module. Changes nothing."""
    half: set[ir.Node] = set()
    precise = {value for value in graph.inputs if value.name in PRECISE_INPUTS}
    precise |= {value for name, value in graph.initializers.items() if PRECISE_WEIGHTS.fullmatch(name)}
    linear: set[ir.Value] = set()
    """outputs of half linear layers, with their bias added"""
    for node in graph:
        if not any(value.dtype == FLOAT for value in node.outputs):
            continue
        inputs = [value for value in node.inputs if value is not None and value.dtype == FLOAT]
        parameters = [value for value in inputs if value.is_initializer() and PARAMETER.match(value.name or "")]
        if node.op_type in NORM_OPERATORS and (parameters or node.op_type == "Softmax"):
            continue
        if node.op_type in LINEAR_OPERATORS and parameters and precise.isdisjoint(parameters):
            half.add(node)
            linear.update(node.outputs)
        elif node.op_type == "Add" and not linear.isdisjoint(inputs):
            half.add(node)
            if parameters:
                linear.update(node.outputs)
        elif (
            node.op_type in ORDINARY_OPERATORS
            and precise.isdisjoint(inputs)
            and not all(value.is_initializer() for value in inputs)
        ):
            half.add(node)
        else:
            precise.update(node.outputs)
    return half


class _Casts:
    """Gives each node its inputs in the type it computes in: at most one Cast of a value, one copy of a constant."""

    def __init__(self, graph: ir.Graph, half_nodes: set[ir.Node]) -> None:
        self._graph, self._half_nodes = graph, half_nodes
        self._first = graph[0]
        self._other_type: dict[ir.Value, ir.Value] = {}

    def give_inputs(self, node: ir.Node, dtype: ir.DataType) -> None:
        """Make the float inputs of a node `dtype`."""
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in (HALF, FLOAT) and value.dtype != dtype:
                if value not in self._other_type:
                    self._other_type[value] = self._constant(value) if value.is_initializer() else self._cast(value)
                node.replace_input_with(index, self._other_type[value])

    def give_outputs(self) -> None:
        """Make the float outputs of the graph float32 again, under their names."""
        for index, value in enumerate(self._graph.outputs):
            if value.dtype == HALF:
                name, value.name = value.name, f"{value.name}.half"
                self._graph.outputs[index] = self._cast(value, name)

    def _cast(self, value: ir.Value, name: str | None = None) -> ir.Value:
        dtype = HALF if value.dtype == FLOAT else FLOAT
        name = name or f"{value.name}.{'half' if dtype == HALF else 'float'}"
        node = ir.node(
            "Cast",
            [value],
            {"to": dtype},
            outputs=[ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))],
            name=f"cast_{name}",
        )
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._first, node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]

    def _constant(self, value: ir.Value) -> ir.Value:
        """A constant in float16: in its place, or beside it under a name of its own if float32 nodes read it too."""
        if not self._half_nodes.issuperset(value.consumers()):
            value = ir.Value(name=f"{value.name}.half", shape=value.shape, const_value=value.const_value)
            self._graph.register_initializer(value)
        _replace_tensor(value, _halved, HALF)
        return value


def _replace_tensor(value: ir.Value, convert: Callable[[np.ndarray, str], np.ndarray], dtype: ir.DataType) -> None:
    """Let the tensor of an initializer be `convert(array, name)` of what it is now, when somebody reads it."""
    tensor, name = value.const_value, value.name
    if tensor is None or name is None:
        raise RuntimeError(f"initializer {name} has no tensor")
    shape = ir.Shape(tensor.shape.numpy())
    value.const_value = ir.LazyTensor(partial(_evaluate, tensor, name, convert), dtype=dtype, shape=shape, name=name)
    value.dtype = dtype


def _evaluate(
    tensor: ir.TensorProtocol, name: str, convert: Callable[[np.ndarray, str], np.ndarray]
) -> ir.TensorProtocol:
    return ir.tensor(convert(tensor.numpy(), name), name=name)


def _divided(array: np.ndarray, _name: str, *, factor: int) -> np.ndarray:
    return array * np.float32(1 / factor)


def _halved(array: np.ndarray, name: str) -> np.ndarray:
    """float32 to float16. Raises IncompatibleError if a finite number becomes infinite."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if np.isinf(half).any() and (too_large := array[np.isinf(half) & np.isfinite(array)]).size:
        raise IncompatibleError(
            f"{name}: has numbers up to {np.abs(too_large).max():.6g}; float16 ends at {np.finfo(np.float16).max}",
            hint="build with --precision fp32",
        )
    return half
