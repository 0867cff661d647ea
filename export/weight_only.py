"""Weight-only quantisation: linear layers keep their weights as 8-bit integers, and everything else stays float32.

A linear layer becomes `aurora::BlockLinear` (plugins/linear), whose function body is `com.microsoft::MatMulNBits` of
ONNX Runtime. Each run of `block_size` weights that end in the same output shares a scale; the scale is symmetric, so no
zero points are stored:

    weight (N, K) = (codes (N, blocks, block_size) - 128) * scales (N, blocks), without the columns past K

The scale is that of the largest weight of the block. Looking for a better one by squared error was tried: at 8 bits it
takes less than a hundredth off the error, and a pass over the weights for each candidate.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import torch

from aurora_export.plugins import DOMAIN, OP_VERSION
from aurora_export.plugins.linear import OP_TYPE
from aurora_export.plugins.linear.onnx_function import BODY_DOMAIN, block_linear_function

BITS = (8,)
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""What ONNX Runtime has kernels for; 512 gave zeros without a word before it was refused (onnxruntime issue 28551)."""

CHUNK = 1 << 17
"""Weights that are quantised at a time: their temporaries stay in a core's cache."""


def quantize_weights(model: ir.Model, *, bits: int = 8, block_size: int = 128) -> tuple[str, ...]:
    """Store the weights of the linear layers of a traced graph as integers, in place; returns the weights' names.

    Linear layers are what `onnx_from_torch.trace` makes of them: MatMul with `NAME.weight.transposed`, or Gemm with
    `NAME.weight`. Matrices under other names stay float32: those of RWKV's low-rank pairs are small, and steer the
    decay. So does a weight that anything but a linear layer of the main graph reads.

    No weight is read here. `NAME.weight.int8`, uint8 (N, blocks, block_size), and `NAME.weight.scales`, float32
    (N * blocks), are computed when they are written, both from one reading if they are written in this order.
    A layer of fewer inputs than `block_size` has one block, of the next size of BLOCK_SIZES.

    Raises ValueError on other bits than BITS and other block sizes than BLOCK_SIZES. Evaluating the new tensors raises
    as reading the weight does.
    """
    if bits not in BITS:
        raise ValueError(f"weights of {bits} bits are not supported: give one of {BITS}")
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"a block of {block_size} weights has no kernel in ONNX Runtime: give one of {BLOCK_SIZES}")
    names = []
    for value in list(model.graph.initializers.values()):
        nodes = [usage.node for usage in value.uses()]
        if nodes and all(_is_linear(node, value, model.graph) for node in nodes):
            weight = LinearWeight(value, bits=bits, block_size=block_size)
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

    def __init__(self, value: ir.Value, *, bits: int, block_size: int) -> None:
        """value: an initializer, (K, N) if its name ends with `.transposed`, else (N, K)."""
        assert value.name is not None and value.const_value is not None
        self._tensor = value.const_value
        self._is_transposed = value.name.endswith(".transposed")
        self.name = value.name.removesuffix(".transposed")
        shape = self._tensor.shape.numpy()
        self.n_outputs, self.n_inputs = shape[::-1] if self._is_transposed else shape
        self.bits = bits
        self.block_size = min(block_size, next((size for size in BLOCK_SIZES if size >= self.n_inputs), block_size))
        self.n_blocks = -(-self.n_inputs // self.block_size)
        self._scales: np.ndarray | None = None

    def codes_tensor(self) -> ir.LazyTensor:
        """`NAME.weight.int8`: uint8, shape (N, blocks, bytes of a block)."""
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
        weight = self._tensor.numpy()
        return quantize(weight.T if self._is_transposed else weight, self.block_size)


def quantize(weight: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise the weight of a linear layer to 8 bits, by blocks along its inputs.

    weight: float32, shape (N, K); read in chunks of rows, best if rows are contiguous.
    Returns codes, uint8 (N, blocks, block_size), 128 for a weight of 0 and where the last block passes K, else 1 to
    255; and scales, float32 (N * blocks), 1 for a block of zeros. Raises ValueError if a weight is not finite.
    """
    n_rows, n_columns = weight.shape
    n_blocks = -(-n_columns // block_size)
    codes = np.empty((n_rows, n_blocks, block_size), np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    for rows, blocks in _chunks(weight, n_blocks, block_size):
        # By torch, whose reduction of short rows is several times faster than that of numpy.
        peaks = torch.from_numpy(blocks).abs().amax(-1).numpy()
        if not np.isfinite(peaks).all():
            raise ValueError(f"a weight in rows {rows.start} to {rows.stop - 1} is not finite: it has no 8-bit code")
        scales[rows] = peaks / 127
        # Below the smallest normal number a scale has few digits, or is 0; such weights round to 0 by the scale 1.
        scales[rows][peaks < 127 * np.finfo(np.float32).tiny] = 1
        blocks /= scales[rows, :, None]
        np.rint(blocks, out=blocks)
        blocks += 128
        codes[rows] = blocks
    return codes, scales.reshape(-1)


def _chunks(weight: np.ndarray, n_blocks: int, block_size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a range of rows and a copy of them, shape (rows, n_blocks, block_size), 0 past the last column.

    The copy may be changed, and is overwritten by the next one.
    """
    n_rows, n_columns = weight.shape
    step = min(n_rows, max(1, CHUNK // (n_blocks * block_size)))
    buffer = np.zeros((step, n_blocks * block_size), np.float32)
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        chunk = buffer[: rows.stop - rows.start]
        chunk[:, :n_columns] = weight[rows]
        # The consumer of the chunk before has made something of its zeros.
        chunk[:, n_columns:] = 0
        yield rows, chunk.reshape(-1, n_blocks, block_size)
