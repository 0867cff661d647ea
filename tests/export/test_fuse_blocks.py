"""Pieces of RWKV-6 blocks as operators: cut out exactly, and computed alike by the native kernels."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aurora_export.contract import STATE_NAMES, graphs
from aurora_export.export.fuse_blocks import fuse_blocks
from aurora_export.export.low_rank import quantize_low_rank
from aurora_export.export.sample_inputs import sample_embeddings
from aurora_export.export.weight_only import quantize_weights
from aurora_export.plugins import DOMAIN, OP_VERSION, cpu
from aurora_export.plugins.mix import PIECES
from aurora_export.runtime.engine_onnx import register_operators
from block_linear import open_session

LIBRARY = cpu.library_path()
LEVELS = [level.name for level in cpu.levels(LIBRARY) if level.is_supported] if LIBRARY else []


@pytest.fixture(scope="module")
def int8(built6):
    """The int8 language graph before and after the pieces were cut out."""
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/language.onnx"))
    quantize_weights(model)
    quantize_low_rank(model)
    before = ir.serde.serialize_model(model)
    fuse_blocks(model, built6.model.config.language.n_layers)
    return before, ir.serde.serialize_model(model)


def run(session, inputs):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_each_block_has_one_of_each_piece(int8, built6):
    counts = dict.fromkeys(PIECES, 0)
    for node in int8[1].graph.node:
        if node.op_type in counts:
            counts[node.op_type] += 1
            assert node.domain == DOMAIN
    assert counts == dict.fromkeys(PIECES, built6.model.config.language.n_layers)
    assert {function.name for function in int8[1].functions} == {*PIECES, "BlockLinear", "Wkv6"}


def test_functions_have_the_inputs_and_outputs_of_the_table(int8):
    for function in int8[1].functions:
        if function.name in PIECES:
            piece = PIECES[function.name]
            assert list(function.input) == [name.replace(".", "_") for name in piece.inputs]
            assert len(function.output) == len(piece.outputs)
            assert list(function.attribute) == (["epsilon"] if piece.has_epsilon else [])


def test_nothing_of_a_block_is_left_outside(int8):
    outside = {node.op_type for node in int8[1].graph.node} - {*PIECES, "BlockLinear", "Wkv6"}
    assert outside == {"LayerNormalization", "Gather", "Reshape", "Shape", "Concat", "Unsqueeze"}


def test_the_file_is_valid_and_names_are_kept(int8, built6):
    before, after = int8
    onnx.checker.check_model(after, full_check=True)
    produced = {name for node in after.graph.node for name in node.output}
    assert produced <= {name for node in before.graph.node for name in node.output}
    assert set(built6.manifest.layer_outputs["language"]) <= produced
    assert len({node.name for node in after.graph.node}) == len(after.graph.node)


@pytest.mark.parametrize(("n_sequences", "n_tokens"), [(1, 1), (1, 9), (3, 4)])
def test_the_functions_compute_exactly_what_was_there(int8, built6, n_sequences, n_tokens):
    spec = graphs(built6.model.config)["language"]
    table = built6.model.weight("language.emb.weight").numpy()
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=spec[name].resolve(B=n_sequences)).astype(np.float32) for name in STATE_NAMES}
    inputs = {"embeddings": sample_embeddings(table, n_sequences, n_tokens), **state}
    expected, actual = (run(open_session(proto), inputs) for proto in int8)
    for name, wanted in expected.items():
        np.testing.assert_allclose(actual[name], wanted, rtol=1e-6, atol=1e-6)


def test_a_block_that_is_not_as_expected_is_refused(built6):
    model = ir.serde.deserialize_model(onnx.load(built6.path / "onnx/language.onnx"))
    quantize_weights(model)
    quantize_low_rank(model)
    for node in model.graph:
        if node.op_type == "Relu":
            node.op_type = "Sigmoid"  # in all blocks but the first
    next(node for node in model.graph if node.op_type == "Sigmoid").op_type = "Relu"
    with pytest.raises(RuntimeError, match="is not what it is in block 0"):
        fuse_blocks(model, built6.model.config.language.n_layers)


def one_piece(proto, op_type):
    """A model of the first node of a kind, and the values of its parameters."""
    node = next(node for node in proto.graph.node if node.op_type == op_type)
    function = next(function for function in proto.functions if function.name == op_type)
    names = [list(function.input), list(function.output)]
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    parameters = {
        name: onnx.numpy_helper.to_array(tensors[given])
        for name, given in zip(function.input, node.input, strict=True)
        if given in tensors
    }
    alone = helper.make_node(op_type, *names, domain=DOMAIN)
    alone.attribute.extend(node.attribute)
    types = {True: TensorProto.INT8, False: TensorProto.FLOAT}
    described = [
        [helper.make_tensor_value_info(name, types[name.endswith("_int8")], None) for name in side] for side in names
    ]
    model = helper.make_model(
        helper.make_graph([alone], "one", *described),
        functions=[function],
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, OP_VERSION)],
        ir_version=10,
    )
    return model, parameters


def session_of(model, *, native, threads=2):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if native:
        assert register_operators(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def piece_inputs(op_type, parameters, config, n_sequences, n_tokens, seed=0):
    rng = np.random.default_rng(seed)
    B, T, E, H, N = n_sequences, n_tokens, config.width, config.n_heads, config.head_size
    shapes = {"shift": (B, E), "y": (B, T, H, N)}
    inputs = {
        name: rng.normal(size=shapes.get(name, (B, T, E))).astype(np.float32)
        for name in PIECES[op_type].inputs
        if "." not in name
    }
    # Of a trained model: small low-rank matrices would hide what they do.
    for name, array in parameters.items():
        if array.dtype == np.int8:
            inputs[name] = rng.integers(-127, 128, array.shape, np.int8)
        else:
            drawn = rng.normal(size=array.shape) * (0.02 if name.endswith("_scales") else 1)
            inputs[name] = drawn.astype(np.float32)
    return inputs


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("op_type", PIECES)
def test_native_pieces_equal_their_functions(int8, built6, op_type, level, monkeypatch):
    monkeypatch.setenv(cpu.LEVEL, level)
    model, parameters = one_piece(int8[1], op_type)
    plain, native = session_of(model, native=False), session_of(model, native=True)
    for sizes in ((1, 1), (1, 2), (1, 50), (2, 1), (3, 17)):
        inputs = piece_inputs(op_type, parameters, built6.model.config.language, *sizes)
        for name, wanted in run(plain, inputs).items():
            found = run(native, inputs)[name]
            assert found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.skipif(LIBRARY is None, reason="the operator library was not built")
@pytest.mark.parametrize("op_type", PIECES)
@pytest.mark.parametrize("n_tokens", [1, 40])
def test_native_pieces_do_not_depend_on_threads(int8, built6, op_type, n_tokens):
    model, parameters = one_piece(int8[1], op_type)
    inputs = piece_inputs(op_type, parameters, built6.model.config.language, 1, n_tokens)
    expected = run(session_of(model, native=True, threads=1), inputs)
    for threads in (2, 3):
        for name, found in run(session_of(model, native=True, threads=threads), inputs).items():
            np.testing.assert_array_equal(found, expected[name])


@pytest.mark.skipif(LIBRARY is None, reason="the operator library was not built")
def test_the_piece_of_older_bundles_computes_the_same(int8, built6):
    """Before format 1.3 the low-rank matrices were float32."""
    model, parameters = one_piece(int8[1], "TimeMixInputs6Int8")
    inputs = piece_inputs("TimeMixInputs6Int8", parameters, built6.model.config.language, 2, 5)
    expected = run(session_of(model, native=True), inputs)
    older, arrays = copy.deepcopy(model), dict(inputs)
    (node,) = older.graph.node
    for name in [name for name in arrays if name.endswith("_int8")]:
        arrays[name] = arrays[name] * arrays.pop(f"{name.removesuffix('_int8')}_scales")
    node.op_type, node.input[:] = "TimeMixInputs6", list(arrays)
    del older.functions[:], older.graph.input[:]
    older.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in arrays)
    for name, found in run(session_of(older, native=True), arrays).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-4, atol=1e-5 * np.abs(expected[name]).max())
