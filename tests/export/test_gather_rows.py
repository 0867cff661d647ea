"""Rows gathered as rows: the same numbers, by another operator, and only where an index is one a row."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from aurora_export.export.gather_rows import gather_rows
from aurora_export.export.sample_inputs import sample_frames


def run(proto, inputs):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def test_the_same_numbers(built6):
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/vision.onnx"))
    before = ir.serde.serialize_model(model)
    n_rows = gather_rows(model)
    after = ir.serde.serialize_model(model)
    onnx.checker.check_model(after, full_check=True)
    kinds = [node.op_type for node in after.graph.node]
    # Of each block: three times rows and sizes, and three indices that are no rows.
    assert kinds.count("GatherND") == n_rows == 6 * built6.model.config.vision.layers_used
    assert kinds.count("GatherElements") == 3 * built6.model.config.vision.layers_used
    inputs = {"frames": sample_frames(3, built6.model.config.vision.image_size)}
    for actual, expected in zip(run(after, inputs), run(before, inputs), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_an_index_for_each_number_is_left_alone():
    text = """<ir_version: 10, opset_import: ["" : 20]>
    one (float[2,5,3] x, int64[2,4,1] index, int64[3] shape, int64[2,4,3] all) => (float[2,4,3] y, float[2,4,3] z) {
        expanded = Expand(index, shape)
        y = GatherElements<axis = 0>(x, expanded)
        z = GatherElements<axis = 1>(x, all)
    }"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    assert gather_rows(model) == 0
