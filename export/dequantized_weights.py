"""Weight-only layers as engine builders take them: MatMulNBits, which BlockLinear is, to DequantizeLinear and MatMul.

The integers stay what they are, and so do the scales of their blocks; only their order and sign convention change:
codes (N, blocks, block_size) around 128 become int8 (K, N) around 0, with a scale for each block of K.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from aurora_export.errors import IncompatibleError
from aurora_export.plugins.linear.onnx_function import BODY_DOMAIN

OPSET = 21
"""The first with blocks in DequantizeLinear; nothing else that the graphs use changes from 20 to 21."""


def dequantize_in_graph(model: ModelProto, source: Path, weights: Path) -> None:
    """Replace every MatMulNBits of a model, and each int8 matrix that is cast, in place; does nothing if it has none.

    source: the model's file, beside which its weights are.  weights: the file that the integers are written to; the
    model must be saved beside it.  One weight is in memory at a time.
    Raises IncompatibleError for a MatMulNBits that `weight_only.py` does not make.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    added: dict[str, TensorProto] = {}
    with weights.open("wb") as file:
        for node in model.graph.node:
            if node.op_type == "Cast" and _is_int8(tensors.get(node.input[0])):
                # A low-rank matrix: builders take integers before DequantizeLinear only, so the integers become floats.
                name = node.input[0]
                floats = numpy_helper.to_array(tensors[name], str(source.parent)).astype(np.float32)
                added[name] = _external(name, floats, file.tell(), weights.name)
                file.write(floats.tobytes())
            if (node.domain, node.op_type) != (BODY_DOMAIN, "MatMulNBits"):
                nodes.append(node)
                continue
            attributes = {attribute.name: attribute.i for attribute in node.attribute}
            if attributes["bits"] != 8 or len(node.input) != 3:
                kind = f"MatMulNBits of {attributes['bits']} bits with {len(node.input)} inputs"
                raise IncompatibleError(
                    f"{source.name}: {node.name}: {kind}",
                    hint="engines are built from 8-bit weights without zero points, as `--precision int8` makes them",
                )
            activations, codes, scales = node.input
            if codes not in added:
                stored_codes, stored_scales = (
                    numpy_helper.to_array(tensors[name], str(source.parent)) for name in (codes, scales)
                )
                arrays = _by_inputs(stored_codes, stored_scales, attributes["K"])
                for name, array in zip((codes, scales), arrays, strict=True):
                    added[name] = _external(name, array, file.tell(), weights.name)
                    file.write(array.tobytes())
            weight = f"{node.output[0]}.weight"
            nodes += [
                helper.make_node(
                    "DequantizeLinear", [codes, scales], [weight], axis=0, block_size=attributes["block_size"]
                ),
                helper.make_node("MatMul", [activations, weight], list(node.output), name=node.name),
            ]
    if not added:
        weights.unlink()
        return
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in added]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend([*kept, *added.values()])
    used = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    others = [entry for entry in model.opset_import if entry.domain in used]
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), *others])


def _is_int8(tensor: TensorProto | None) -> bool:
    return tensor is not None and tensor.data_type == TensorProto.INT8


def _by_inputs(codes: np.ndarray, scales: np.ndarray, n_inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes (N, blocks, block_size), uint8, and scales (N * blocks) -> int8 (K, N) and scales (blocks, N)."""
    n_outputs, n_blocks, _ = codes.shape
    signed = (codes ^ 0x80).view(np.int8).reshape(n_outputs, -1)[:, :n_inputs]  # code - 128, without a wider type
    return np.ascontiguousarray(signed.T), np.ascontiguousarray(scales.reshape(n_outputs, n_blocks).T)


def _external(name: str, array: np.ndarray, offset: int, location: str) -> TensorProto:
    """An initializer whose numbers are in a file."""
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", array.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor
