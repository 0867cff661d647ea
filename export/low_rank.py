"""The low-rank matrices of RWKV-6 as 8-bit integers: what mixes and decay depend on the data by.

In float32 they are a twentieth of what a decoded token reads when all else has 8 bits, a tenth when it has 4. The
weights of a column share a scale:

    weight (..., K, N) = codes (..., K, N) * scales (..., 1, N)

Only the weights are rounded; the products stay in float32, for the decay hangs on them. Cast and Mul make the float32
weight again, until fuse_blocks.py puts them into the body of a piece: its native kernel reads the codes.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import onnx_ir as ir

MATRICES = re.compile(r"language\.blocks\.\d+\.att\.time_(maa|decay)_w[12]")


def quantize_low_rank(model: ir.Model) -> tuple[str, ...]:
    """Store the low-rank matrices of a traced language graph as integers, in place; returns their names.

    No weight is read here: `NAME.int8`, int8 of the weight's shape (..., K, N), and `NAME.scales`, float32
    (..., 1, N), are computed when they are written.
    """
    names = []
    for value in list(model.graph.initializers.values()):
        tensor, name = value.const_value, value.name or ""
        if tensor is None or not MATRICES.fullmatch(name):
            continue
        names.append(name)
        shape = tensor.shape.numpy()
        codes, scales = (
            _initializer(model.graph, tensor, f"{name}.{what}", dtype, ir.Shape(sizes), index)
            for index, (what, dtype, sizes) in enumerate(
                (("int8", ir.DataType.INT8, shape), ("scales", ir.DataType.FLOAT, (*shape[:-2], 1, shape[-1])))
            )
        )
        cast = ir.node("Cast", [codes], {"to": ir.DataType.FLOAT.value}, name=f"{name}.cast")
        weight = ir.node("Mul", [cast.outputs[0], scales], name=f"{name}.scale")
        for node, suffix in ((cast, "cast"), (weight, "weight")):
            output = node.outputs[0]
            output.name, output.shape, output.type = f"{name}.{suffix}", value.shape, ir.TensorType(ir.DataType.FLOAT)
        value.replace_all_uses_with(weight.outputs[0])
        model.graph.insert_before(model.graph[0], [cast, weight])
        del model.graph.initializers[name]
    return tuple(names)


def round_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round a matrix, or several, by columns: float32 (..., K, N) to int8 of that shape and float32 (..., 1, N).

    Raises ValueError if a weight is not finite.
    """
    peaks = np.abs(weight).max(-2, keepdims=True)
    if not np.isfinite(peaks).all():
        raise ValueError("a low-rank weight is not finite: it has no 8-bit code")
    # Below the smallest normal number a scale has few digits, or is 0; such weights round to 0 by the scale 1.
    scales = np.where(peaks < 127 * np.finfo(np.float32).tiny, np.float32(1), peaks / 127)
    return np.rint(weight / scales).astype(np.int8), scales


def _initializer(
    graph: ir.Graph, source: ir.TensorProtocol, name: str, dtype: ir.DataType, shape: ir.Shape, index: int
) -> ir.Value:
    """Codes (0) or scales (1) of a matrix, computed when they are read."""
    tensor = ir.LazyTensor(partial(_round, source, name, index), dtype, shape, name=name)
    value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _round(source: ir.TensorProtocol, name: str, index: int) -> ir.TensorProtocol:
    return ir.tensor(round_columns(source.numpy())[index], name=name)
