"""A vision tower without merging, an int8 graph for plain ONNX Runtime: what the peer of bench_transformer.py sees by.

    python benchmarks/random_tower.py SHAPE FILE      SHAPE: one of SHAPES

Random weights of real shapes. Linear layers are DynamicQuantizeMatMul, 8 bits per output; Attention and Gelu are the
operators of the standard: of what ONNX Runtime offers this was the fastest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 23
INTERNAL_WIDTH = 2048
"""of the language model"""


@dataclass(frozen=True)
class Shape:
    """A ViT of width 1024 and 16 heads, and the two layers behind it."""

    image: int
    patch: int
    n_layers: int
    shuffle: int = 1
    """so many patches, squared, become one token"""
    n_extra: int = 0
    """tokens that stand for no patch, and are dropped at the end"""

    width, n_heads, mlp_width = 1024, 16, 4096

    @property
    def n_patches(self) -> int:
        """Of an image."""
        return (self.image // self.patch) ** 2


SHAPES = {
    "internvit-300m": Shape(image=448, patch=14, n_layers=24, shuffle=2, n_extra=1),  # Mini-InternVL-1.5 2B
    "siglip-l-384": Shape(image=384, patch=16, n_layers=23),  # ours, nothing merged
}


class Graph:
    """Nodes and weights of a graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def add(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        """Add a node; the name of its output."""
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, values: np.ndarray) -> str:
        """Add a weight."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        """Add float32 numbers."""
        return self.constant(self._rng.normal(0, scale, shape).astype(np.float32))

    def linear(self, x: str, n_inputs: int, n_outputs: int) -> str:
        """Add an 8-bit layer with a bias."""
        codes = self.constant(self._rng.integers(-127, 128, (n_inputs, n_outputs)).astype(np.int8))
        scales = self.constant(np.full(n_outputs, n_inputs**-0.5 / 73, np.float32))
        bias = self.normal(n_outputs, scale=0.01)
        return self.add("DynamicQuantizeMatMul", x, codes, scales, "", bias, domain="com.microsoft")

    def norm(self, x: str, width: int) -> str:
        """Add a layer norm."""
        one, zero = (self.constant(np.full(width, value, np.float32)) for value in (1, 0))
        return self.add("LayerNormalization", x, one, zero, epsilon=1e-6)

    def block(self, x: str, shape: Shape) -> str:
        """Add a layer of the tower."""
        normed = self.norm(x, shape.width)
        q, k, v = (self.linear(normed, shape.width, shape.width) for _ in range(3))
        heads = {"q_num_heads": shape.n_heads, "kv_num_heads": shape.n_heads}
        seen = self.add("Attention", q, k, v, **heads)
        x = self.add("Add", x, self.linear(seen, shape.width, shape.width))
        inner = self.add(
            "Gelu", self.linear(self.norm(x, shape.width), shape.width, shape.mlp_width), approximate="tanh"
        )
        return self.add("Add", x, self.linear(inner, shape.mlp_width, shape.width))


def write_tower(shape: Shape, path: Path) -> None:
    """Write the graph: float32 pixels (1, 3, S, S) to tokens (1, K, 2048)."""
    graph = Graph()
    kernel = graph.normal(shape.width, 3, shape.patch, shape.patch, scale=0.02)
    x = graph.add("Conv", "pixels", kernel, strides=[shape.patch] * 2, kernel_shape=[shape.patch] * 2)
    x = graph.add("Reshape", x, graph.constant(np.array([1, shape.width, shape.n_patches])))
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    if shape.n_extra:
        x = graph.add("Concat", graph.normal(1, shape.n_extra, shape.width), x, axis=1)
    x = graph.add("Add", x, graph.normal(1, shape.n_extra + shape.n_patches, shape.width, scale=0.02))
    for _ in range(shape.n_layers):
        x = graph.block(x, shape)
    if shape.n_extra:
        ends = (np.array([value]) for value in (shape.n_extra, shape.n_extra + shape.n_patches, 1))
        x = graph.add("Slice", x, *map(graph.constant, ends))
    width = shape.width * shape.shuffle**2
    if shape.shuffle > 1:
        side, s = shape.image // shape.patch // shape.shuffle, shape.shuffle
        x = graph.add("Reshape", x, graph.constant(np.array([side, s, side, s, shape.width])))
        x = graph.add("Transpose", x, perm=[0, 2, 1, 3, 4])
        x = graph.add("Reshape", x, graph.constant(np.array([1, side * side, width])))
    x = graph.add("Gelu", graph.linear(graph.norm(x, width), width, INTERNAL_WIDTH))
    x = graph.linear(x, INTERNAL_WIDTH, INTERNAL_WIDTH)
    size = (1, 3, shape.image, shape.image)
    whole = helper.make_graph(
        graph.nodes,
        "tower",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, (1, shape.n_patches // shape.shuffle**2, INTERNAL_WIDTH))],
        graph.weights,
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(whole, opset_imports=imports, ir_version=10), path)


if __name__ == "__main__":
    write_tower(SHAPES[sys.argv[1]], Path(sys.argv[2]))
