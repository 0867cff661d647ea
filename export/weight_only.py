"""Weight-only quantisation: linear layers keep their weights as integers of 8 or 4 bits, all else stays float32.

A linear layer becomes `aurora::BlockLinear` (plugins/linear), whose function body is `com.microsoft::MatMulNBits` of
ONNX Runtime. Each run of `block_size` weights that end in the same output shares a scale. How weights are rounded:
rounding.py.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx_ir as ir

from aurora_export.export.rounding import BITS, Rounding, pack_codes, round_weight
from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.linear import OP_TYPE
from aurora_export.plugins.linear.onnx_function import BODY_DOMAIN, block_linear_function

BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What ONNX Runtime has kernels for; 512 gave zeros without a word before it was refused (onnxruntime issue 28551)."""

DEFAULT_BLOCK_SIZE = {8: 128, 4: 64}

FINER_WEIGHTS = ("language.head.weight",)
"""Those that keep 8 bits where the others have 4."""


def quantize_weights(
    model: ir.Model,
    *,
    bits: int = 8,
    block_size: int | None = None,
    finer: Container[str] = FINER_WEIGHTS,
    rounding: Rounding = round_weight,
) -> tuple[str, ...]:
    """Store the weights of the linear layers of a traced graph as integers, in place; returns the weights' names.

    Linear layers are what `onnx_from_torch.trace` makes of them: MatMul with `NAME.weight.transposed`, or Gemm with
    `NAME.weight`. Matrices under other names stay float32: those of RWKV's low-rank pairs are small, and steer the
    decay. So does a weight that anything but a linear layer of the main graph reads.

    block_size: the default is that of DEFAULT_BLOCK_SIZE.  finer: names of weights that get 8 bits in any case.
    rounding: what makes integers of a weight.

    No weight is read here. `NAME.weight.int8` or `NAME.weight.int4`, uint8 (N, blocks, bytes of a block), and
    `NAME.weight.scales`, float32 (N * blocks), are computed when they are written, both from one reading if they are
    written in this order. A layer of fewer inputs than `block_size` has one block, of the next size of BLOCK_SIZES.

    Raises ValueError on other bits than BITS and other block sizes than BLOCK_SIZES. Evaluating the new tensors raises
    as reading the weight does.
    """
    if bits not in BITS:
        raise ValueError(f"weights of {bits} bits are not supported: give one of {BITS}")
    if block_size is not None and block_size not in BLOCK_SIZES:
        raise ValueError(f"a block of {block_size} weights has no kernel in ONNX Runtime: give one of {BLOCK_SIZES}")
    names = []
    for value in list(model.graph.initializers.values()):
        nodes = [usage.node for usage in value.uses()]
        if nodes and all(_is_linear(node, value, model.graph) for node in nodes):
            weight_bits = 8 if (value.name or "").removesuffix(".transposed") in finer else bits
            size = block_size or DEFAULT_BLOCK_SIZE[weight_bits]
            weight = LinearWeight(value, bits=weight_bits, block_size=size, rounding=rounding)
            names.append(weight.name)
            _replace(model.graph, value, nodes, weight)
    if names:
        function = ir.serde.deserialize_function(block_linear_function(opset=model.opset_imports[""]))
        model.functions[function.identifier()] = function
        model.opset_imports.update({DOMAIN: OP_VERSION, BODY_DOMAIN: 1})
    return tuple(names)


def _is_linear(node: ir.Node, weight: ir.Value, graph: ir.Graph) -> bool:
    """Tell whether a node is a linear layer of the main graph and `weight`, float32 of 2 axes, its weight."""
    if node.graph is not graph or node.domain != "" or len(node.inputs) < 2 or node.inputs[1] is not weight:
        return False
    tensor, name = weight.const_value, weight.name or ""
    if tensor is None or tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2 or weight.is_graph_output():
        return False
    if sum(value is weight for value in node.inputs) > 1:
        return False
    if node.op_type == "MatMul":
        return name.endswith(".weight.transposed")
    if node.op_type == "Gemm":
        given = {key: attribute.value for key, attribute in node.attributes.items()}
        defaults = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
        return name.endswith(".weight") and {**defaults, **given} == {**defaults, "transB": 1}
    return False


def _replace(graph: ir.Graph, old: ir.Value, nodes: list[ir.Node], weight: LinearWeight) -> None:
    """Put BlockLinear in the place of linear layers; what they computed keeps its name."""
    tensors = (weight.codes_tensor(), weight.scales_tensor())
    values = [
        ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        for tensor in tensors
    ]
    for value in values:
        graph.register_initializer(value)
    for node in nodes:
        product = ir.node(
            OP_TYPE,
            [node.inputs[0], *values],
            {
                "K": weight.n_inputs,
                "N": weight.n_outputs,
                "bits": weight.bits,
                "block_size": weight.block_size,
            },
            domain=DOMAIN,
            name=node.name,
        )
        new_nodes = [product]
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is not None:
            result = node.outputs[0]
            product.outputs[0].name = f"{result.name}.product"
            product.outputs[0].shape, product.outputs[0].type = result.shape, result.type
            new_nodes.append(ir.node("Add", [product.outputs[0], bias], name=f"{node.name}.bias"))
        ir.convenience.replace_nodes_and_values(graph, node, [node], new_nodes, node.outputs, new_nodes[-1].outputs)
    del graph.initializers[old.name or ""]


class LinearWeight:
    """One weight of linear layers, quantised whenever it is asked for.

    It holds no codes. Scales are kept from when the codes are computed until they are asked for, so that a file is
    written with one reading of each weight.
    """

    def __init__(self, value: ir.Value, *, bits: int, block_size: int, rounding: Rounding = round_weight) -> None:
        """value: an initializer, (K, N) if its name ends with `.transposed`, else (N, K)."""
        assert value.name is not None and value.const_value is not None
        self._tensor = value.const_value
        self._is_transposed = value.name.endswith(".transposed")
        self.name = value.name.removesuffix(".transposed")
        shape = self._tensor.shape.numpy()
        self.n_outputs, self.n_inputs = shape[::-1] if self._is_transposed else shape
        self.bits = bits
        self._rounding = rounding
        self.block_size = min(block_size, next((size for size in BLOCK_SIZES if size >= self.n_inputs), block_size))
        self.n_blocks = -(-self.n_inputs // self.block_size)
        self._scales: np.ndarray | None = None

    def codes_tensor(self) -> ir.LazyTensor:
        """`NAME.weight.int8` or `.int4`: uint8, shape (N, blocks, bytes of a block)."""
        shape = ir.Shape([self.n_outputs, self.n_blocks, self.block_size * self.bits // 8])
        name = f"{self.name}.int{self.bits}"
        return ir.LazyTensor(lambda: ir.tensor(self._codes(), name=name), ir.DataType.UINT8, shape, name=name)

    def scales_tensor(self) -> ir.LazyTensor:
        """`NAME.weight.scales`: float32, shape (N * blocks)."""
        shape = ir.Shape([self.n_outputs * self.n_blocks])
        name = f"{self.name}.scales"
        return ir.LazyTensor(lambda: ir.tensor(self._pop_scales(), name=name), ir.DataType.FLOAT, shape, name=name)

    def _codes(self) -> np.ndarray:
        codes, self._scales = self._quantize()
        return codes

    def _pop_scales(self) -> np.ndarray:
        scales, self._scales = self._scales, None
        return self._quantize()[1] if scales is None else scales

    def _quantize(self) -> tuple[np.ndarray, np.ndarray]:
        stored = self._tensor.numpy()
        weight = stored.T if self._is_transposed else stored
        codes, scales = self._rounding(self.name, weight, self.bits, self.block_size)
        return pack_codes(codes, self.bits), scales
