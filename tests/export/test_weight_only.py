"""Linear layers with weights of 8 or 4 bits: which ones, what they compute, and when a weight is read."""

from __future__ import annotations

import copy
import re
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, numpy_helper

from aurora_export.contract import STATE_NAMES
from aurora_export.export.onnx_from_torch import DATA_ALIGNMENT_BYTES, MIN_EXTERNAL_BYTES
from aurora_export.export.reference_outputs import Reference
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.export.weight_only import quantize_weights
from block_linear import dequantized, error, open_session

LINEAR_LAYERS = {
    ("language", 6): r"language\.(blocks\.\d\.(att|ffn)\.(receptance|key|value|gate|output)|head)",
    ("language", 7): r"language\.(blocks\.\d\.(att|ffn)\.(receptance|key|value|output)|head)",
    ("vision", 6): r"vision\.encoder\.layers\.[01]\.(self_attn\.(q|k|v|out)_proj|mlp\.fc[12])|projector\.model\.[02]",
}
N_LINEAR_LAYERS = {("language", 6): 17, ("language", 7): 13, ("vision", 6): 14}
LOW_RANK = {6: r".*\.att\.time_(maa|decay)_w[12]", 7: r".*\.att\.[wavg][12]"}

ROUNDING_OF_ALL_LAYERS = 0.15
"""What rounding the activations to 8 bits may change in a result of a tiny model, of its largest; 8 % was seen."""


class Narrow:
    """A graph of a tiny model, quantised and saved."""

    def __init__(self, built, graph, folder, *, bits=8):
        self.built, self.graph, self.version = built, graph, built.model.config.language.version
        model = ir.load(built.path / f"onnx/{graph}.onnx")
        self.names_before = {value.name for node in model.graph for value in node.outputs}
        self.reads = count_reads(model)
        self.quantized = quantize_weights(model, bits=bits)
        self.reads_of_pass = dict(self.reads)
        self.path = save(model, folder / f"{graph}.onnx")
        self.proto = onnx.load(self.path)

    def dequantized_model(self):
        """The torch model, with the weights that are in the file."""
        model = copy.deepcopy(self.built.model)
        for name, weight in dequantized(self.proto).items():
            parameter = model.get_parameter(name)
            assert parameter.shape == weight.shape
            parameter.data = torch.from_numpy(weight)
        return model


def count_reads(model):
    """Make every initializer count how often it is read."""
    reads = {}

    def read(name, tensor):
        reads[name] += 1
        return tensor

    for name, value in model.graph.initializers.items():
        tensor, reads[name] = value.const_value, 0
        value.const_value = ir.LazyTensor(partial(read, name, tensor), tensor.dtype, tensor.shape, name=name)
    return reads


def save(model, path):
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=MIN_EXTERNAL_BYTES,
        alignment=DATA_ALIGNMENT_BYTES,
    )
    return path


def run(session, inputs):
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture(scope="module")
def graphs8(built6, built7, tmp_path_factory):
    return {
        (graph, built.model.config.language.version): Narrow(built, graph, tmp_path_factory.mktemp("int8"))
        for graph, built in (("language", built6), ("language", built7), ("vision", built6))
    }


@pytest.fixture(params=LINEAR_LAYERS, ids="{0[0]}, RWKV-{0[1]}".format)
def int8(graphs8, request):
    return graphs8[request.param]


@pytest.fixture(params=[6, 7], ids=["RWKV-6", "RWKV-7"])
def language8(graphs8, request):
    return graphs8["language", request.param]


@pytest.fixture(scope="module", params=[6, 7], ids=["RWKV-6", "RWKV-7"])
def language4(built6, built7, tmp_path_factory, request):
    built = {6: built6, 7: built7}[request.param]
    return Narrow(built, "language", tmp_path_factory.mktemp("int4"), bits=4)


def test_linear_layers_are_quantized_and_nothing_else(int8):
    case = int8.graph, int8.version
    parameters = dict(int8.built.model.named_parameters())
    pattern = re.compile(f"({LINEAR_LAYERS[case]})\\.weight")
    assert sorted(int8.quantized) == sorted(
        name for name in parameters if pattern.fullmatch(name) and name in stored(int8)
    )
    assert len(set(int8.quantized)) == len(int8.quantized) == N_LINEAR_LAYERS[case]
    nodes = [node for node in int8.proto.graph.node if node.op_type == "BlockLinear"]
    assert [node.domain for node in nodes] == ["aurora"] * N_LINEAR_LAYERS[case]
    tensors = {tensor.name: tensor for tensor in int8.proto.graph.initializer}
    for name in int8.quantized:
        assert tensors[f"{name}.int8"].data_type == TensorProto.UINT8
        assert tensors[f"{name}.scales"].data_type == TensorProto.FLOAT
        assert name not in tensors
        assert f"{name}.transposed" not in tensors


def stored(int8):
    """Weights that this graph reads, by the names of the torch model, before they were quantised."""
    return {name.removesuffix(".transposed") for name in int8.reads}


def test_other_matrices_stay_as_they_are(graphs8):
    for version, pattern in LOW_RANK.items():
        int8 = graphs8["language", version]
        before = numpy_tensors(onnx.load(int8.built.path / "onnx/language.onnx"))
        after = numpy_tensors(int8.proto)
        low_rank = {name for name in before if re.fullmatch(pattern, name)}
        assert len(low_rank) == {6: 2 * 4, 7: 2 * 8 - 2}[version]  # the first block of RWKV-7 has no v1 and v2
        for name in low_rank:
            assert after[name].dtype == np.float32
            np.testing.assert_array_equal(after[name], before[name])
    after = numpy_tensors(graphs8["vision", 6].proto)
    assert after["vision.embeddings.patch_embedding.weight"].dtype == np.float32
    assert after["vision.embeddings.position_embedding.weight"].dtype == np.float32


def numpy_tensors(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_weights_are_off_by_half_a_step_at_most(int8):
    weights = dequantized(int8.proto)
    assert set(weights) == set(int8.quantized)
    tensors = numpy_tensors(int8.proto)
    for name, weight in weights.items():
        original = int8.built.model.get_parameter(name).detach().numpy()
        codes, scales = tensors[f"{name}.int8"], tensors[f"{name}.scales"]
        steps = np.repeat(scales.reshape(codes.shape[:2]), codes.shape[2], axis=1)[:, : weight.shape[1]]
        assert (np.abs(weight - original) <= 0.5001 * steps).all()
        assert codes.min() >= 1
        assert np.abs(weight - original).max() > 0


def test_4_bits_are_for_all_but_the_head(language4):
    case = language4.graph, language4.version
    tensors = numpy_tensors(language4.proto)
    assert len(language4.quantized) == N_LINEAR_LAYERS[case]
    fine = [name for name in language4.quantized if f"{name}.int8" in tensors]
    assert fine == ["language.head.weight"]
    for name in set(language4.quantized) - set(fine):
        n_outputs, n_inputs = language4.built.model.get_parameter(name).shape
        assert tensors[f"{name}.int4"].shape == (n_outputs, -(-n_inputs // 64), 32)
    nodes = [node for node in language4.proto.graph.node if node.op_type == "BlockLinear"]
    bits = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "bits"]
    assert sorted(bits) == [4] * (len(nodes) - 1) + [8]
    onnx.checker.check_model(str(language4.path), full_check=True)


@pytest.mark.parametrize("n_tokens", [1, 7])
def test_4_bit_language_equals_the_reference_with_the_weights_of_the_file(language4, n_tokens):
    check_language(language4, 3, n_tokens)


@pytest.mark.parametrize("n_tokens", [1, 7])
@pytest.mark.parametrize("n_sequences", [1, 3])
def test_language_equals_the_reference_with_the_weights_of_the_file(language8, n_sequences, n_tokens):
    check_language(language8, n_sequences, n_tokens)


def check_language(narrow, n_sequences, n_tokens):
    """With exact activations it is the same to rounding; with those of 8 bits, near."""
    reference = Reference(narrow.dequantized_model())
    state = reference.state_after(sample_embeddings(reference.embedding_table, n_sequences, 4, seed=1))
    embeddings = sample_embeddings(reference.embedding_table, n_sequences, n_tokens)
    expected = reference.run_language(embeddings, state)
    assert set(expected) == {"logits", *(f"next_{name}" for name in STATE_NAMES)}
    for is_exact, limit in ((True, 1e-5), (False, ROUNDING_OF_ALL_LAYERS)):
        actual = run(open_session(narrow.proto, exact=is_exact), {"embeddings": embeddings, **state})
        for name, wanted in expected.items():
            assert error(actual[name], wanted) < limit, (name, is_exact)


@pytest.mark.parametrize("n_frames", [1, 3])
def test_vision_equals_the_reference_with_the_weights_of_the_file(graphs8, n_frames):
    int8 = graphs8["vision", 6]
    frames = sample_frames(n_frames, int8.built.model.config.vision.image_size)
    expected = Reference(int8.dequantized_model()).run_vision(frames)
    exact = run(open_session(int8.proto, exact=True), {"frames": frames})
    assert error(exact["visual_tokens"], expected["visual_tokens"]) < 1e-5
    np.testing.assert_array_equal(exact["token_of_patch"], expected["token_of_patch"])
    # Rounded activations may merge other patches: only what does not depend on that is compared.
    rounded = run(open_session(int8.proto), {"frames": frames})
    pooled = [tokens["visual_tokens"].mean(axis=1) for tokens in (rounded, expected)]
    assert error(*pooled) < 0.2


def test_files_are_valid_and_keep_their_names(int8):
    onnx.checker.check_model(str(int8.path), full_check=True)
    versions = {opset.domain: opset.version for opset in int8.proto.opset_import}
    assert (versions["aurora"], versions["com.microsoft"]) == (1, 1)
    names = [value for node in int8.proto.graph.node for value in node.output]
    assert set(names) == int8.names_before, "values keep their names: residual streams, outputs and all others"
    assert len({node.name for node in int8.proto.graph.node} - {""}) == len(int8.proto.graph.node)
    before = onnx.load(int8.built.path / f"onnx/{int8.graph}.onnx", load_external_data=False)
    assert int8.proto.graph.output == before.graph.output


def test_weights_are_read_once_and_only_when_they_are_written(int8):
    assert set(int8.reads_of_pass.values()) == {0}
    quantized = {name for name in int8.reads if name.removesuffix(".transposed") in int8.quantized}
    assert len(quantized) == len(int8.quantized)
    assert {int8.reads[name] for name in quantized} == {1}


def test_tensors_are_written_one_after_the_other(built6):
    model = ir.load(built6.path / "onnx/language.onnx")
    quantized = quantize_weights(model)
    new = [name for name in model.graph.initializers if name.endswith((".int8", ".scales"))]
    assert new == [f"{name}.{what}" for name in quantized for what in ("int8", "scales")]
