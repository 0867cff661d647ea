"""Quantization written into a graph, explicitly: QuantizeLinear and DequantizeLinear around the layers of a recipe.

    activation ─ Quantize ─ Dequantize ─┐
    codes of the weight ─ Dequantize ───┴─ MatMul ─ (+ bias) ─ as before

Runtimes fuse the pattern into products of small integers or run it as it stands; the numbers are those of the codes
either way. Nothing else of the graph changes, function bodies least of all, and all names stay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.recipes import LARGEST, Recipe, Scheme, WeightType
from aurora_export.calibration.scales_file import HINT, Scales
from aurora_export.calibration.sites import Site, find_sites, groups_of
from aurora_export.calibration.weight_scales import DTYPES, Rounding, block_for, quantize_weight
from aurora_export.errors import IncompatibleError

CODES: dict[str, ir.DataType] = {
    "int8": ir.DataType.INT8,
    "fp8": ir.DataType.FLOAT8E4M3FN,
    "int4": ir.DataType.INT4,
}

MIN_EXTERNAL_BYTES = 1024

RoundingOf = Callable[[str, WeightType], Rounding | None]
"""name of a site, type of its weights -> how they are rounded; None: to the nearest"""


def quantize_file(
    source: Path, target: Path, scales: Scales, recipe: Recipe, *, only: Collection[str] | None = None
) -> tuple[str, ...]:
    """Quantize the float32 graph of a bundle into another file, `target`, with `<target>.data` beside it.

    only: names of groups; None: all that the recipe names. Those of `scales.keep` stay float either way.
    Returns the groups that were quantized. One weight is in memory at a time.
    Raises IncompatibleError if the scales lack a tensor of the graph.
    """
    model = ir.load(source)
    groups = quantize(model, scales, recipe, only=only)
    ir.save(model, target, external_data=f"{target.name}.data", size_threshold_bytes=_largest_index(model))
    return groups


def _largest_index(model: ir.Model) -> int:
    """Size of the largest tensor of indices: shape inference reads them in the graph's file."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return max([MIN_EXTERNAL_BYTES, *(t.nbytes for t in tensors if t is not None and t.dtype == ir.DataType.INT64)])


def quantize(
    model: ir.Model,
    scales: Scales,
    recipe: Recipe,
    *,
    only: Collection[str] | None = None,
    rounding_of: RoundingOf | None = None,
) -> tuple[str, ...]:
    """Quantize a graph in place, of float32 or with float16 inside; see `quantize_file`.

    rounding_of: another rounding of the weights than to the nearest.  Weights are read when the new ones are written.
    """
    sites = find_sites(model.graph)
    recipe = recipe.keeping(scales.keep)
    chosen = {
        name: scheme
        for name, site in sites.items()
        if (scheme := recipe.scheme_of(name)) is not None and (only is None or site.group in only)
    }
    missing = [name for name, scheme in chosen.items() if scheme.activation and name not in scales.tensors]
    if missing:
        raise IncompatibleError(f"the scales have no tensor {missing[0]} ({len(missing)} are missing)", hint=HINT)
    for name, scheme in chosen.items():
        site = sites[name]
        if scheme.activation is not None:
            end = getattr(scales.tensors[name], scheme.activation)
            _quantize_activation(model.graph, site, scheme.activation, end)
        for node in site.linears:
            _quantize_weight(model.graph, node, scheme, rounding_of(name, scheme.weight) if rounding_of else None)
    if chosen:
        model.opset_imports[""] = max(model.opset_imports[""], recipe.opset)
        model.graph.sort()
    return groups_of(chosen)


def _quantize_activation(graph: ir.Graph, site: Site, kind: str, end: float) -> None:
    """Put one pair before all the layers of a site."""
    value = site.activation
    assert value.dtype is not None and value.name is not None
    prefix = f"{site.name}.activation"
    scale = _constant(graph, f"{prefix}.scale", np.asarray(end / LARGEST[kind], value.dtype.numpy()))
    zero = _constant(graph, f"{prefix}.zero", np.zeros((), DTYPES[kind]))
    codes = ir.Value(name=f"{prefix}.codes", shape=value.shape, type=ir.TensorType(CODES[kind]))
    rounded = ir.Value(name=f"{prefix}.rounded", shape=value.shape, type=ir.TensorType(value.dtype))
    first = site.linears[0]
    for op_type, inputs, output in (
        ("QuantizeLinear", [value, scale, zero], codes),
        ("DequantizeLinear", [codes, scale, zero], rounded),
    ):
        graph.insert_before(first, ir.node(op_type, inputs, outputs=[output], name=f"{prefix}.{op_type}"))
    for node in site.linears:
        node.replace_input_with(0, rounded)


def _quantize_weight(graph: ir.Graph, node: ir.Node, scheme: Scheme, rounding: Rounding | None) -> None:
    """Give a layer the codes of its weight; a Gemm becomes a MatMul, whose weight has the inputs first."""
    value = node.inputs[1]
    assert value is not None and value.name is not None
    dequantized = _dequantized(graph, node, value, scheme, rounding)
    if node.op_type == "Gemm":
        _as_matmul(graph, node, dequantized)
    else:
        node.replace_input_with(1, dequantized)
    if not value.uses():
        del graph.initializers[value.name]


def _dequantized(
    graph: ir.Graph, node: ir.Node, value: ir.Value, scheme: Scheme, rounding: Rounding | None
) -> ir.Value:
    """What the codes of a weight stand for, computed in the graph."""
    weight = QuantizedWeight(value, node.op_type, scheme, rounding)
    codes, scales = (
        ir.Value(
            name=tensor.name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        for tensor in (weight.codes_tensor(), weight.scales_tensor())
    )
    for initializer in (codes, scales):
        graph.register_initializer(initializer)
    attributes: dict[str, int] = {"axis": weight.axis}
    if scheme.block is not None:
        attributes["block_size"] = weight.block
    result = ir.Value(name=f"{weight.name}.rounded", shape=codes.shape, type=ir.TensorType(weight.float_dtype))
    graph.insert_before(
        node,
        ir.node("DequantizeLinear", [codes, scales], attributes, outputs=[result], name=f"{weight.name}.dequantize"),
    )
    return result


def _as_matmul(graph: ir.Graph, node: ir.Node, weight: ir.Value) -> None:
    """Replace a Gemm, whose weight was (N, K), by a product with (K, N) and a sum."""
    given = {key: attribute.value for key, attribute in node.attributes.items()}
    defaults = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    if {**defaults, **given} != {**defaults, "transB": 1}:
        raise ValueError(f"{node.name}: a Gemm with {given} is no linear layer of ours")
    product = ir.node("MatMul", [node.inputs[0], weight], name=node.name)
    new_nodes, result = [product], node.outputs[0]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        product.outputs[0].name = f"{result.name}.product"
        product.outputs[0].shape, product.outputs[0].type = result.shape, result.type
        new_nodes.append(ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{node.name}.bias"))
    ir.convenience.replace_nodes_and_values(graph, node, [node], new_nodes, node.outputs, new_nodes[-1].outputs)


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


class QuantizedWeight:
    """One weight as codes and scales, computed together when either is asked for; it keeps the scales only."""

    def __init__(self, value: ir.Value, op_type: str, scheme: Scheme, rounding: Rounding | None) -> None:
        """value: an initializer, (K, N) of a MatMul, (N, K) of a Gemm, (N, channels, height, width) of a Conv."""
        assert value.name is not None and value.const_value is not None
        self._tensor, self._op_type, self._rounding = value.const_value, op_type, rounding
        self.name = value.name.removesuffix(".half").removesuffix(".transposed")
        self.kind = scheme.weight
        self.float_dtype = value.const_value.dtype
        self._shape = tuple(self._tensor.shape.numpy())
        self.n_outputs = self._shape[1] if op_type == "MatMul" else self._shape[0]
        self.n_inputs = int(np.prod(self._shape)) // self.n_outputs
        if op_type == "Conv" and scheme.block is not None:
            raise ValueError(f"{self.name}: a convolution has no blocks")
        self.block = block_for(self.n_inputs, scheme.block)
        self._is_blocked = scheme.block is not None
        self.axis = 0 if op_type == "Conv" or self._is_blocked else 1
        self._scales: np.ndarray | None = None

    def codes_tensor(self) -> ir.LazyTensor:
        """`NAME.weight.int8` or another type, shape (K, N), or as the weight of a convolution."""
        name = f"{self.name}.{self.kind}"
        shape = self._shape if self._op_type == "Conv" else (self.n_inputs, self.n_outputs)
        return ir.LazyTensor(
            lambda: ir.tensor(self._quantize()[0], CODES[self.kind], name=name),
            CODES[self.kind],
            ir.Shape(shape),
            name=name,
        )

    def scales_tensor(self) -> ir.LazyTensor:
        """`NAME.weight.scales`, shape (N), or (K / block, N)."""
        name = f"{self.name}.scales"
        shape = (self.n_inputs // self.block, self.n_outputs) if self._is_blocked else (self.n_outputs,)
        return ir.LazyTensor(
            lambda: ir.tensor(self._known_scales().reshape(shape), self.float_dtype, name=name),
            self.float_dtype,
            ir.Shape(shape),
            name=name,
        )

    def _known_scales(self) -> np.ndarray:
        return self._quantize()[1] if self._scales is None else self._scales

    def _quantize(self) -> tuple[np.ndarray, np.ndarray]:
        array = self._tensor.numpy()
        weight = array if self._op_type == "MatMul" else array.reshape(self.n_outputs, -1).T
        codes, scales = quantize_weight(weight, self.kind, self.block, rounding=self._rounding)
        self._scales = scales.astype(self.float_dtype.numpy())
        if self._op_type == "Conv":
            codes = np.ascontiguousarray(codes.T).reshape(self._shape)
        return codes, self._scales
