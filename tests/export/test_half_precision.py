"""The float16 policy: which node computes in which type, what that costs, and that the fold changes nothing else."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from aurora_export.errors import IncompatibleError
from aurora_export.export.half_precision import fold_residual, overflow_fold, to_half
from aurora_export.export.reference_outputs import Reference
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.plugins import DOMAIN
from run_onnx import run_literally, run_onnxruntime

FOLD = 16

FLOAT32_PARAMETERS = re.compile(
    r"language\.blocks\.\d+\.(ln[012]\..*|att\.(ln_x\..*|time_decay.*|time_faaaa|w[012]))"
    r"|language\.ln_out\..*|vision\.encoder\.layers\.\d+\.layer_norm[12]\..*"
)
FLOAT32_OPERATORS = {"LayerNormalization", "Softmax", "Wkv6", "Wkv7", "TopK", "Exp", "Log", "Div", "Clip"}
FLOAT32_OPERATORS |= {"ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum", "ArgMax", "Greater", "Equal"}
LIMITS = {"logits": 1e-2, "next_att_shift": 1e-2, "next_ffn_shift": 1e-2, "next_wkv": 1e-2, "visual_tokens": 5e-3}


# ----------------------------------------------------------------------------------------------------------- the graphs


def load(built, graph):
    """The float32 graph of a bundle; nothing that is done to it reaches the bundle."""
    return ir.load(built.path / f"onnx/{graph}.onnx")


def save(model, path):
    ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=1024)
    return path


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Path of a bundle's graph in float16, as `to_half` makes it."""
    saved = {}

    def path(built, graph):
        key = (built.path, graph)
        if key not in saved:
            model = load(built, graph)
            to_half(model, fold=FOLD if graph == "language" else 1)
            saved[key] = save(model, tmp_path_factory.mktemp("half") / f"{graph}.onnx")
        return saved[key]

    return path


RUNNERS = [run_onnxruntime, run_literally]


def language_case(model):
    reference = Reference(model)
    state = reference.state_after(sample_embeddings(reference.embedding_table, 2, 4, seed=1))
    embeddings = sample_embeddings(reference.embedding_table, 2, 9)
    return {"embeddings": embeddings, **state}, reference.run_language(embeddings, state)


def vision_case(model):
    frames = sample_frames(2, model.config.vision.image_size)
    return {"frames": frames}, Reference(model).run_vision(frames)


CASES = {"language": language_case, "vision": vision_case}


class Types:
    """A saved graph with the type of every value."""

    def __init__(self, path):
        model = onnx.load(path)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
        self.nodes = list(inferred.node)
        self.initializers = {tensor.name: tensor for tensor in inferred.initializer}
        self.of = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
        self.of |= {value.name: value.type.tensor_type.elem_type for value in inferred.input}
        self.of |= {name: tensor.data_type for name, tensor in self.initializers.items()}
        self.producer = {name: node for node in self.nodes for name in node.output}

    def inputs(self, node):
        return [self.of[name] for name in node.input if name]

    def weights(self, node):
        return [
            name
            for name in node.input
            if re.match(r"(language|vision|projector)\.", name) and name in self.initializers
        ]

    def before(self, name, stop):
        """Names of float values that `name` is computed from, back to where `stop(node)` is true."""
        found, todo = set(), [name]
        while todo:
            name = todo.pop()
            if name in found or self.of.get(name) not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                continue
            found.add(name)
            if name in self.producer and not stop(self.producer[name]):
                todo += self.producer[name].input
        return found


@pytest.fixture(params=["language", "vision"])
def graph(request):
    return request.param


# ------------------------------------------------------------------------------------------------------------- the fold


def test_fold_is_where_the_rescaling_of_the_rwkv_package_ends():
    assert [overflow_fold(n) for n in (1, 5, 6, 12, 24, 32, 36, 61)] == [1, 1, 2, 4, 16, 32, 64, 64]


def test_fold_changes_no_bit_of_an_output(built, tmp_path):
    model = load(built, "language")
    before = run_onnxruntime(save(model, tmp_path / "before.onnx"), language_case(built.model)[0])
    fold_residual(model, FOLD)
    after = run_onnxruntime(save(model, tmp_path / "after.onnx"), language_case(built.model)[0])
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected, err_msg=name)


def test_fold_divides_the_residual_stream(built, tmp_path):
    names = [f"language.layers.{layer}" for layer in range(built.model.config.language.n_layers)]
    results = []
    for factor in (1, FOLD):
        model = load(built, "language")
        fold_residual(model, factor)
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(values[name] for name in names)
        results.append(run_onnxruntime(save(model, tmp_path / f"{factor}.onnx"), language_case(built.model)[0]))
    for name in names:
        np.testing.assert_array_equal(results[1][name] * FOLD, results[0][name])


@pytest.mark.parametrize("factor", [0, -2, 3, 12])
def test_fold_by_what_is_no_power_of_two_is_refused(built6, factor):
    with pytest.raises(ValueError, match="powers of two"):
        fold_residual(load(built6, "language"), factor)


def test_fold_of_a_graph_without_a_residual_stream_is_refused(built6):
    with pytest.raises(RuntimeError, match="vision: not a language graph"):
        fold_residual(load(built6, "vision"), FOLD)


@pytest.mark.parametrize(
    "lost", ["blocks.1.att.output.weight.transposed", "blocks.0.ffn.value.weight.transposed", "blocks.0.ln0.bias"]
)
def test_fold_with_a_weight_under_another_name_is_refused(built, lost):
    model = load(built, "language")
    model.graph.initializers[f"language.{lost}"].name = "lost"
    with pytest.raises(RuntimeError, match="2 layers, 5 weights"):
        fold_residual(model, FOLD)


def test_fold_with_a_norm_of_several_nodes_is_refused(built6):
    model = load(built6, "language")
    (norm,) = model.graph.initializers["language.ln_out.weight"].consumers()
    norm.op_type = "Decomposed"
    with pytest.raises(RuntimeError, match=r"no LayerNormalization reads language\.ln_out\.weight"):
        fold_residual(model, FOLD)


# ---------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("run", RUNNERS)
def test_outputs_are_close_to_the_reference(built, half, graph, run):
    inputs, expected = CASES[graph](built.model)
    actual = run(half(built, graph), inputs)
    for name, wanted in expected.items():
        assert actual[name].dtype == wanted.dtype
        if wanted.dtype == np.float32:
            limit = LIMITS[name] * np.abs(wanted).max()
            np.testing.assert_allclose(actual[name], wanted, rtol=0, atol=limit, err_msg=name)
        else:
            np.testing.assert_array_equal(actual[name], wanted, err_msg=name)


@pytest.mark.parametrize("run", RUNNERS)
def test_residual_over_65504_needs_the_fold(built, tmp_path, run):
    inputs, _ = language_case(built.model)
    results = {}
    for fold in (None, 1, FOLD):
        model = load(built, "language")
        for name, value in model.graph.initializers.items():
            if re.search(r"att\.output|ffn\.value", name):
                value.const_value = ir.tensor(value.const_value.numpy() * np.float32(3e4), name=name)
        if fold is not None:
            to_half(model, fold=fold)
        results[fold] = run(save(model, tmp_path / f"{fold}.onnx"), inputs)["logits"]
    assert np.isnan(results[1]).any()
    limit = 3 * LIMITS["logits"] * np.abs(results[None]).max()
    np.testing.assert_allclose(results[FOLD], results[None], rtol=0, atol=limit)


# ------------------------------------------------------------------------------------------------------------ the types


def test_file_passes_the_checker_and_keeps_the_contract(built, half, graph):
    path = half(built, graph)
    onnx.checker.check_model(str(path), full_check=True)
    found, expected = (onnx.load(file).graph for file in (path, built.path / f"onnx/{graph}.onnx"))
    assert list(found.input) == list(expected.input)
    assert list(found.output) == list(expected.output)


def test_values_have_the_types_that_they_say(built, half, graph):
    types = Types(half(built, graph))
    for value in onnx.load(half(built, graph)).graph.value_info:
        assert value.type.tensor_type.elem_type == types.of[value.name]


def test_what_must_be_float32_is(built, half, graph):
    types = Types(half(built, graph))
    nodes = [node for node in types.nodes if node.op_type in FLOAT32_OPERATORS]
    assert len(nodes) > 8
    for node in nodes:
        assert TensorProto.FLOAT16 not in types.inputs(node), (node.op_type, node.name)


def test_linear_layers_are_float16(built, half, graph):
    types = Types(half(built, graph))
    nodes = [node for node in types.nodes if node.op_type in ("MatMul", "Gemm", "Conv") and types.weights(node)]
    decay = [node for node in nodes if re.search(r"time_decay_w[12]|\.w[12]$", types.weights(node)[0])]
    assert len(decay) == (2 * built.model.config.language.n_layers if graph == "language" else 0)
    for node in nodes:
        expected = TensorProto.FLOAT if node in decay else TensorProto.FLOAT16
        assert set(types.inputs(node)) == {expected}, node.name


def test_weights_are_float16_but_for_a_list(built, half, graph):
    for name, tensor in Types(half(built, graph)).initializers.items():
        if re.match(r"(language|vision|projector)\.", name):
            expected = TensorProto.FLOAT if FLOAT32_PARAMETERS.fullmatch(name) else TensorProto.FLOAT16
            assert tensor.data_type == expected, name


def test_decay_is_float32_from_its_first_product(built, half):
    types = Types(half(built, "language"))
    for node in (node for node in types.nodes if node.domain == DOMAIN):
        log_decay = node.input[{"Wkv6": 3, "Wkv7": 1}[node.op_type]]
        values = types.before(log_decay, lambda node: any(re.search("w1$", name) for name in node.input))
        assert len(set(types.initializers) & values) == {"Wkv6": 2, "Wkv7": 3}[node.op_type]  # offset, W2, -exp(-1/2)
        assert {types.of[name] for name in values} == {TensorProto.FLOAT}


def test_group_norm_is_float32_up_to_the_output_layer(built, half):
    types = Types(half(built, "language"))
    for node in types.nodes:
        if any("att.output" in name for name in types.weights(node)):
            cast = types.producer[node.input[0]]
            assert cast.op_type == "Cast"
            (gate_product,) = cast.input
            values = types.before(gate_product, lambda node: node.domain == DOMAIN or node.op_type == "Cast")
            assert any(types.producer[name].domain == DOMAIN for name in values if name in types.producer)
            assert {types.of[name] for name in values} == {TensorProto.FLOAT}


def test_merging_is_float32_and_attention_is_not(built, half):
    types = Types(half(built, "vision"))
    products = [node for node in types.nodes if node.op_type == "MatMul" and not types.weights(node)]
    n_layers = built.model.config.vision.layers_used
    for wanted, count in ((TensorProto.FLOAT16, 2), (TensorProto.FLOAT, 3)):  # 3: similarity, sizes, weighted average
        assert sum(set(types.inputs(node)) == {wanted} for node in products) == count * n_layers


def test_residual_streams_are_float16_under_their_names(built, half, graph):
    names = built.manifest.layer_outputs[graph]
    assert names
    assert {Types(half(built, graph)).of[name] for name in names} == {TensorProto.FLOAT16}


def test_state_is_float32_at_the_border_and_wkv_all_along(built, half):
    types = Types(half(built, "language"))
    for node in types.nodes:
        if {"wkv", "next_wkv"} & {*node.input, *node.output}:
            assert node.op_type in ("Gather", "Concat", "Shape")
        if {"att_shift", "ffn_shift", "next_att_shift", "next_ffn_shift"} & {*node.input, *node.output}:
            assert node.op_type in ("Cast", "Shape")


def test_no_cast_is_there_twice_or_undone(built, half, graph):
    types = Types(half(built, graph))
    casts = [node for node in types.nodes if node.op_type == "Cast"]
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    ours = [node for node in casts if {types.of[node.input[0]], types.of[node.output[0]]} == floats]
    assert ours
    assert len({node.input[0] for node in ours}) == len(ours)
    for node in ours:
        assert types.producer.get(node.input[0]) not in ours


def test_unknown_operators_are_float32(built6):
    model = load(built6, "vision")
    for node in model.graph:
        if node.op_type == "Gelu":
            node.op_type, node.domain = "Unheard", "of"
    to_half(model)
    unknown = [node for node in model.graph if node.op_type == "Unheard"]
    assert unknown
    for node in unknown:
        assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT}


# --------------------------------------------------------------------------------------------------------- the laziness


def test_no_weight_is_read_before_the_file_is_written(built, graph, tmp_path):
    model = load(built, graph)

    def refuse():
        raise AssertionError("read")

    for name, value in model.graph.initializers.items():
        if re.match(r"(language|vision|projector)\.", name):
            tensor = value.const_value
            value.const_value = ir.LazyTensor(refuse, dtype=tensor.dtype, shape=tensor.shape, name=name)
    to_half(model, fold=FOLD if graph == "language" else 1)
    with pytest.raises(AssertionError, match="read"):
        save(model, tmp_path / "half.onnx")


def set_weight(model, name, number):
    value = model.graph.initializers[name]
    array = np.array(value.const_value.numpy())
    array.flat[5] = number
    value.const_value = ir.tensor(array, name=name)


def test_weight_that_float16_cannot_hold_is_refused_by_name(built6, tmp_path):
    model = load(built6, "language")
    set_weight(model, "language.blocks.1.att.key.weight.transposed", -70000)
    to_half(model)
    with pytest.raises(
        IncompatibleError, match=r"blocks\.1\.att\.key\.weight\.transposed: has numbers up to 70000"
    ) as e:
        save(model, tmp_path / "half.onnx")
    assert "fp32" in e.value.hint


@pytest.mark.parametrize(
    ("name", "number"),
    [("att.key", 65504), ("att.key", np.inf), ("att.output", -70000)],
    ids=["largest", "inf", "fold"],
)
def test_weight_that_float16_holds_is_written(built6, tmp_path, name, number):
    name = f"language.blocks.1.{name}.weight.transposed"
    model = load(built6, "language")
    set_weight(model, name, number)
    to_half(model, fold=FOLD)
    save(model, tmp_path / "half.onnx")
    expected = number / FOLD if "output" in name else number
    assert ir.load(tmp_path / "half.onnx").graph.initializers[name].const_value.numpy().flat[5] == expected


def test_constant_of_both_types_gets_a_copy(built6):
    model = load(built6, "vision")
    one = ir.tensor(np.float32(1), name="shared")
    constant = ir.Value(name="shared", type=ir.TensorType(one.dtype), shape=ir.Shape([]), const_value=one)
    model.graph.register_initializer(constant)
    gelu = next(node for node in model.graph if node.op_type == "Gelu")
    for producer, consumer in ((gelu.inputs[0], gelu), (gelu.outputs[0], None)):
        node = ir.node("Mul" if consumer else "Div", [producer, constant], name="of_a_test")
        node.outputs[0].shape, node.outputs[0].dtype = producer.shape, producer.dtype
        model.graph.insert_after(producer.producer(), node)
    to_half(model)
    found = {name: value.dtype for name, value in model.graph.initializers.items() if name.startswith("shared")}
    assert found == {"shared": ir.DataType.FLOAT, "shared.half": ir.DataType.FLOAT16}
