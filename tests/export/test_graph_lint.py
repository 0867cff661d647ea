"""Each rule of the lint is seen to fail once, on a fault planted into a graph that passes."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurora_export.export.graph_lint import GraphError, lint, problems
from aurora_export.plugins.wkv.onnx_function import wkv_function


@pytest.fixture(scope="module", params=["vision", "language"])
def both(built6, request):
    return built6.graphs[request.param], built6.path / f"onnx/{request.param}.onnx"


@pytest.fixture
def vision(built6):
    return Fault(built6.graphs["vision"], built6.path / "onnx/vision.onnx")


@pytest.fixture
def language(built6):
    return Fault(built6.graphs["language"], built6.path / "onnx/language.onnx")


class Fault:
    """A graph to plant a fault into, and what the lint says then."""

    def __init__(self, graph, path):
        self.graph, self.path = graph, path
        self.model = onnx.load(path, load_external_data=False)

    def node(self, op_type, which=0):
        return [node for node in self.model.graph.node if node.op_type == op_type][which]

    def constant(self, name, array):
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op_type, inputs, *, dtype=TensorProto.FLOAT, shape=("F",), **attributes):
        self.model.graph.node.append(helper.make_node(op_type, inputs, ["planted"], name="node_planted", **attributes))
        if shape is not None:
            self.model.graph.value_info.append(helper.make_tensor_value_info("planted", dtype, shape))

    def problems(self):
        return list(problems(self.model, self.graph, data_folder=self.path.parent))

    def assert_found(self, *texts):
        """Each text is in some problem. Stops at the last: shape inference may not survive what was planted."""
        missing, found = set(texts), []
        for problem in problems(self.model, self.graph, data_folder=self.path.parent):
            found.append(problem)
            missing -= {text for text in missing if re.search(text, problem)}
            if not missing:
                return
        raise AssertionError(f"not found: {missing}, but {found}")


def test_exported_graphs_pass(both):
    graph, path = both
    lint(path, graph)


def test_error_names_file_and_node_and_has_the_exit_code_of_an_incompatible_file(built6, bundle_copy):
    path = bundle_copy / "onnx/vision.onnx"
    model = onnx.load(path, load_external_data=False)
    node = next(node for node in model.graph.node if node.op_type == "TopK")
    node.attribute.append(helper.make_attribute("sorted", 0))
    onnx.save(model, path)
    with pytest.raises(GraphError) as caught:
        lint(path, built6.graphs["vision"])
    assert caught.value.message == f"vision.onnx: node {node.name} (TopK): sorted is 0; TensorRT takes only 1"
    assert caught.value.exit_code == 3
    assert "constraints.txt" in caught.value.hint


@pytest.mark.parametrize("value", [3840, 0])
def test_topk_with_k_out_of_range(vision, value):
    vision.node("TopK").input[1] = vision.constant("planted_k", np.array([value]))
    vision.assert_found(rf"node \S+ \(TopK\): k is {value}; TensorRT takes 1 to 3839")


def test_topk_with_computed_k(vision):
    vision.node("TopK").input[1] = "val_computed"
    vision.assert_found(r"\(TopK\): k is not a constant")


@pytest.mark.parametrize("op_type", ["ScatterElements", "ScatterND"])
def test_scatter_that_reduces(vision, op_type):
    vision.add(op_type, ["frames", "i", "u"], reduction="add")
    vision.assert_found(rf"node node_planted \({op_type}\): reduction 'add' is a plugin with atomics in TensorRT")


def test_scatter_that_only_writes_is_allowed(vision):
    index = vision.constant("planted_index", np.zeros((1, 1), np.int64))
    update = vision.constant("planted_update", np.zeros((1, 1), np.int32))
    vision.add("ScatterElements", ["token_sizes", index, update], dtype=TensorProto.INT32, shape=None)
    vision.model.graph.value_info.append(helper.make_tensor_value_info("planted", TensorProto.INT32, None))
    vision.model.graph.value_info[-1].type.CopyFrom(vision.model.graph.output[1].type)
    assert vision.problems() == []


@pytest.mark.parametrize(
    ("op_type", "reason"),
    [
        ("NonZero", "the shape of its result depends on the data"),
        ("Unique", "the shape of its result depends on the data"),
        ("Compress", "the shape of its result depends on the data"),
        ("Loop", "control flow is not allowed outside of our own functions"),
        ("If", "control flow is not allowed outside of our own functions"),
        ("Scan", "control flow is not allowed outside of our own functions"),
        ("Sort", "TensorRT has no sort; TopK on distinct keys does the same"),
        ("RandomNormal", "its result is not reproducible"),
    ],
)
def test_operators_that_no_target_takes(vision, op_type, reason):
    vision.add(op_type, ["frames"])
    vision.assert_found(rf"node node_planted \({op_type}\): {reason}")


def test_operator_inside_a_body_is_found_too(vision):
    body = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"], name="inner")], "body", [], [])
    vision.add("If", ["frames"], then_branch=body)
    vision.assert_found(r"node inner \(NonZero\): the shape of its result depends on the data")


def test_size_that_depends_on_something_else(vision):
    largest = helper.make_node("ReduceMax", ["token_sizes"], ["planted_end"], keepdims=0)
    vision.model.graph.node.append(largest)
    start, step = (vision.constant(f"planted_{value}", np.int32(value)) for value in (0, 1))
    vision.add("Range", [start, "planted_end", step], dtype=TensorProto.INT32, shape=("u0",))
    vision.assert_found(r"node node_planted \(Range\), value planted: size u0 depends on more than F")


def test_size_that_nothing_is_known_of(language):
    del language.model.graph.value_info[:]
    language.assert_found(r"size unk__\d+ depends on more than B, T")


def test_sizes_that_follow_from_the_free_ones_are_allowed(language):
    sizes = {dim.dim_param for value in language.model.graph.value_info for dim in value.type.tensor_type.shape.dim}
    assert {"T - 1", "B*T"} <= sizes
    assert language.problems() == []


def test_value_without_a_shape(vision):
    vision.model.opset_import.append(helper.make_opsetid("com.example", 1))
    vision.add("Mystery", ["visual_tokens"], shape=None, domain="com.example")
    vision.assert_found(
        r"model: operators of domain 'com\.example' are not standard", "value planted: nothing is known of its shape"
    )


def test_shapes_that_contradict_each_other(vision):
    vision.add("Identity", ["visual_tokens"], shape=("F", 1))
    vision.assert_found("types and shapes contradict each other: ")


def test_float64_value(vision):
    vision.add("Cast", ["token_sizes"], dtype=TensorProto.DOUBLE, shape=("F", 64), to=TensorProto.DOUBLE)
    del vision.model.graph.value_info[-1]
    vision.assert_found(r"node node_planted \(Cast\), value planted: is float64")


def test_float64_constant(vision):
    vision.constant("planted_scale", np.float64(1))
    vision.assert_found("tensor planted_scale: is float64")


def test_newer_opset(vision):
    vision.model.opset_import[0].version = 21
    vision.assert_found("model: opset 21 of domain '' is newer than 20")


def test_newer_opset_of_a_function(language):
    language.model.functions[0].opset_import[0].version = 23
    language.assert_found("Wkv6: opset 23 of domain '' is newer than 20")


def test_newer_file_format(vision):
    vision.model.ir_version = 11
    vision.assert_found("IR version 11 is newer than 10")


@pytest.mark.parametrize("location", ["/etc/passwd", "../vision.onnx.data", "other.data"])
def test_external_data_elsewhere(vision, location):
    tensor = next(t for t in vision.model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    next(entry for entry in tensor.external_data if entry.key == "location").value = location
    vision.assert_found(f"tensor {tensor.name}: its data is in '{location}', expected 'vision.onnx.data'")


def test_external_data_beyond_the_end(vision):
    tensor = next(t for t in vision.model.graph.initializer if t.data_location == TensorProto.EXTERNAL)
    next(entry for entry in tensor.external_data if entry.key == "offset").value = "1000000000"
    vision.assert_found(rf"tensor {tensor.name}: its data ends beyond the \d+ bytes of vision\.onnx\.data")


def test_missing_wkv_node(language):
    language.node("Wkv6").op_type = "Wkv5"
    language.assert_found(r"nodes of domain 'aurora' are \{'Wkv5': 1, 'Wkv6': 1\}, expected \{'Wkv6': 2\}")


def test_wkv_node_without_attributes(language):
    node = language.node("Wkv6")
    del node.attribute[:]
    language.assert_found(
        rf"node {node.name} \(Wkv6\): attributes are \{{\}}, expected \{{'plugin_namespace': 'aurora'"
    )


def test_missing_and_foreign_functions(language):
    del language.model.functions[:]
    language.model.functions.append(wkv_function("Wkv7", opset=20))
    language.assert_found(r"functions are \[\('aurora', 'Wkv7'\)\], expected \[\('aurora', 'Wkv6'\)\]")


def test_contract_names_order_types_and_shapes(vision):
    vision.model.graph.output[1].type.tensor_type.elem_type = TensorProto.INT64
    vision.model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 65
    vision.assert_found(
        r"inputs are frames uint8 \[F, 65, 64, 3\]; the contract says frames uint8 \[F, 64, 64, 3\]",
        r"outputs are visual_tokens float32 \[F, \d+, 64\], token_sizes int64",
    )


def test_fixed_batch(language):
    language.model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    language.assert_found(
        r"inputs are embeddings float32 \[3, T, 64\], .*; the contract says embeddings float32 \[B, T"
    )


def test_renamed_residual_stream(vision):
    for node in vision.model.graph.node:
        for field in (node.input, node.output):
            for i, name in enumerate(field):
                field[i] = name.replace("vision.layers.1", "somewhere")
    vision.assert_found(r"no value is called vision\.layers\.1")


def test_metadata_of_the_machine(vision):
    vision.model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File ...")
    vision.model.graph.node[1].doc_string = "File ..."
    vision.model.metadata_props.add(key="where", value="here")
    first, second = vision.model.graph.node[:2]
    vision.assert_found(
        f"{first.name}: has metadata or a doc_string",
        f"{second.name}: has metadata or a doc_string",
        "model: has metadata 'where'",
    )
