"""The attention of vision blocks as one operator: cut out exactly where it may be, and left alone elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from aurora_export.export.fuse_attention import fuse_attention
from aurora_export.export.sample_inputs import sample_frames
from aurora_export.export.weight_only import quantize_weights
from aurora_export.plugins import DOMAIN
from aurora_export.plugins.attention import OP_TYPE


@pytest.fixture
def int8(built6):
    """The int8 vision graph, before."""
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/vision.onnx"))
    quantize_weights(model)
    return model


def run(proto, inputs):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def test_every_block_has_one(int8, built6):
    n_layers = built6.model.config.vision.layers_used
    before = ir.serde.serialize_model(int8)
    assert fuse_attention(int8, n_layers)
    after = ir.serde.serialize_model(int8)
    onnx.checker.check_model(after)
    nodes = [node for node in after.graph.node if node.op_type == OP_TYPE]
    assert len(nodes) == n_layers
    assert {node.domain for node in nodes} == {DOMAIN}
    assert not {"Softmax", "ReduceMean"} & {node.op_type for node in after.graph.node}
    inputs = {"frames": sample_frames(2, built6.model.config.vision.image_size)}
    for actual, expected in zip(run(after, inputs), run(before, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_sizes_in_the_logits_are_left_alone(int8, built6):
    softmax = next(node for node in int8.graph if node.op_type == "Softmax")
    added = ir.node("Add", [softmax.inputs[0], softmax.inputs[0]])
    int8.graph.insert_before(softmax, added)
    softmax.replace_input_with(0, added.outputs[0])
    assert not fuse_attention(int8, built6.model.config.vision.layers_used)
    assert OP_TYPE not in {node.op_type for node in int8.graph}


def turn_otherwise(node):
    node.attributes.add(ir.AttrInt64s("perm", [0, 1, 2, 3]))


def add_up_otherwise(node):
    node.replace_input_with(1, ir.Value(name="other", const_value=ir.tensor(np.array([2], np.int64))))


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (("q", "Add", "Reshape", "Transpose"), turn_otherwise),
        (("q", "Add", "Reshape", "Transpose", "Mul"), lambda node: setattr(node, "op_type", "Div")),
        (("v", "Add", "Reshape", "Transpose", "MatMul"), lambda node: setattr(node, "op_type", "Add")),
        (("k", "Add", "Reshape", "Transpose", "ReduceMean"), add_up_otherwise),
    ],
    ids=["heads", "scale", "values", "mean"],
)
def test_another_attention_is_refused(int8, built6, path, change):
    projection, *op_types = path
    name = f"vision.encoder.layers.0.self_attn.{projection}_proj.weight.int8"
    (node,) = int8.graph.initializers[name].consumers()
    for op_type in op_types:
        (node,) = (reader for reader in node.outputs[0].consumers() if reader.op_type == op_type)
    change(node)
    with pytest.raises(RuntimeError, match="not the attention of model/vision"):
        fuse_attention(int8, built6.model.config.vision.layers_used)
