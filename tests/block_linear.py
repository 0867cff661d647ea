"""BlockLinear as its definition says, and ONNX Runtime sessions to compare with it; for tests."""

from __future__ import annotations

import copy

import numpy as np
import onnxruntime
from onnx import numpy_helper

LAYERS = {
    **{name: [(1, "K", "N")] for name in ("MatMulNBits", "BlockLinear", "BlockLinearAdd")},
    "BlockMlpGelu": [(1, "K", "hidden"), (4, "hidden", "N")],
    "BlockMlpSquaredRelu": [(1, "K", "hidden"), (3, "hidden", "N")],
}
"""Operator -> for each layer in it, the place of its codes, and the names of its sizes."""


def dequantized(proto):
    """Name -> weight (N, K), by the definition of BlockLinear and MatMulNBits."""
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    weights = {}
    for node in proto.graph.node:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        for place, n_inputs, n_outputs in LAYERS.get(node.op_type, ()):
            bits, stored, scales = attributes["bits"], tensors[node.input[place]], tensors[node.input[place + 1]]
            codes = stored if bits == 8 else np.stack([stored & 15, stored >> 4], -1).reshape(*stored.shape[:2], -1)
            blocks = (codes.astype(np.float32) - 2 ** (bits - 1)) * scales.reshape(*codes.shape[:2], 1)
            assert len(codes) == attributes[n_outputs]
            name = node.input[place].rpartition(".int")[0]
            weights[name] = blocks.reshape(len(codes), -1)[:, : attributes[n_inputs]]
    return weights


def open_session(proto, *, exact=False):
    """exact: activations stay float32 (accuracy level 0)."""
    if exact:
        proto = copy.deepcopy(proto)
        for node in (node for function in proto.functions for node in function.node):
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 0
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def error(actual, expected):
    return np.abs(actual - expected).max() / np.abs(expected).max()
