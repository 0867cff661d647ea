"""The vision graph at int8 for runtimes that know nothing of ours, made of the vision.onnx of an fp32 bundle.

`dynamic`: what was found fastest on plain ONNX Runtime: DynamicQuantizeMatMul with a scale for each output and the bias
inside, attention as one MultiHeadAttention; its optimiser fuses GELU. (MatMulNBits is the function in an int8 bundle's
own graph. Static QDQ is not among them.)
`compressed`: int8 weights behind DequantizeLinear, which OpenVINO multiplies in 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

MICROSOFT = "com.microsoft"


class _Graph:
    """A graph with look-ups by name."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producer = {name: node for node in model.graph.node for name in node.output}
        self.readers: dict[str, list[NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def linear_layers(self) -> list[tuple[NodeProto, NodeProto]]:
        """MatMul with a weight, and the Add of its bias."""
        found = []
        for node in self.graph.node:
            if node.op_type == "MatMul" and node.input[1].endswith(".weight.transposed"):
                (add,) = self.readers[node.output[0]]
                if add.op_type != "Add":
                    raise ValueError(f"{node.input[1]}: no bias is added, but {add.op_type}")
                found.append((node, add))
        return found

    def quantize(self, name: str) -> str:
        """Round a weight (K, N) to int8 by outputs, in place; returns the name of its scales, float32 (N)."""
        weight = numpy_helper.to_array(self.tensors[name])
        scales = np.maximum(np.abs(weight).max(0), 1e-30).astype(np.float32) / 127
        rounded = np.rint(weight / scales).astype(np.int8)
        self.tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(rounded), name))
        self.graph.initializer.append(numpy_helper.from_array(scales, f"{name}.scales"))
        return f"{name}.scales"

    def drop_unused(self) -> None:
        """Remove nodes whose results nobody reads."""
        read = {value.name for value in self.graph.output}
        kept = []
        for node in reversed(self.graph.node):
            if read.intersection(node.output):
                kept.append(node)
                read.update(node.input)
        del self.graph.node[:]
        self.graph.node.extend(reversed(kept))


def dynamic(model: ModelProto) -> None:
    """DynamicQuantizeMatMul and MultiHeadAttention, in place."""
    model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    graph = _Graph(model)
    for product, add in graph.linear_layers():
        (bias,) = (name for name in add.input if name != product.output[0])
        inputs = [product.input[0], product.input[1], graph.quantize(product.input[1]), "", bias]
        add.CopyFrom(
            helper.make_node("DynamicQuantizeMatMul", inputs, list(add.output), name=add.name, domain=MICROSOFT)
        )
    fuse_attention(graph)
    graph.drop_unused()


def fuse_attention(graph: _Graph) -> None:
    """MultiHeadAttention from the projections on; the mean of the keys over the heads from what is not transposed."""
    for node in [node for node in graph.graph.node if node.op_type == "Softmax"]:
        logits = graph.producer[node.input[0]]
        if logits.op_type != "MatMul":
            raise ValueError(
                f"attention adds something to its logits ({logits.op_type}): not written for this plain graph"
            )
        (values,) = graph.readers[node.output[0]]
        (turned,) = graph.readers[values.output[0]]
        (mixed,) = graph.readers[turned.output[0]]
        scaled = graph.producer[logits.input[0]]
        heads = [scaled.input[0], graph.producer[logits.input[1]].input[0], values.input[1]]
        views = [graph.producer[graph.producer[name].input[0]] for name in heads]
        shape = numpy_helper.to_array(graph.tensors[views[0].input[1]])
        scale = float(numpy_helper.to_array(graph.tensors[scaled.input[1]]))
        mixed.CopyFrom(
            helper.make_node(
                "MultiHeadAttention",
                [view.input[0] for view in views],
                list(mixed.output),
                name=mixed.name,
                domain=MICROSOFT,
                num_heads=int(shape[2]),
                scale=scale,
            )
        )
        for reader in graph.readers[heads[1]]:
            if reader.op_type == "ReduceMean":
                reader.input[0] = views[1].output[0]
                reader.input[1] = f"{reader.name}.axis"
                graph.graph.initializer.append(numpy_helper.from_array(np.array([2], np.int64), f"{reader.name}.axis"))


def compressed(model: ModelProto) -> None:
    """Weights in int8 behind DequantizeLinear, in place."""
    graph = _Graph(model)
    for product, _ in graph.linear_layers():
        name = product.input[1]
        scales = graph.quantize(name)
        graph.graph.node.append(helper.make_node("DequantizeLinear", [name, scales], [f"{name}.float"], axis=1))
        product.input[1] = f"{name}.float"
    nodes = sorted(graph.graph.node, key=lambda node: node.op_type != "DequantizeLinear")
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


WAYS: dict[str, Callable[[ModelProto], None]] = {"dynamic": dynamic, "compressed": compressed}


def write(source: Path, way: str, path: Path) -> None:
    """Write the graph of `source`, in one of WAYS, with its weights beside it."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    WAYS[way](model)
    if any(tensor.data_type == TensorProto.UNDEFINED for tensor in model.graph.initializer):
        raise ValueError(f"{source}: a weight was lost")
    path.with_suffix(".data").unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=1024)
