"""What a builder without plugins gets: standard operators only, and the same numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.export.engine_graph import write_plain_graph
from aurora_export.export.rounding import round_weight
from block_linear import dequantized


@pytest.fixture
def plain(built, tmp_path) -> dict[str, onnx.ModelProto]:
    """Graph -> model, written to tmp_path."""
    sources = {name: built.path / built.manifest.files[name] for name in built.graphs}
    return {
        name: onnx.load(write_plain_graph(path, tmp_path), load_external_data=False) for name, path in sources.items()
    }


def test_only_standard_operators_are_left(plain):
    for model in plain.values():
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}


def test_each_node_has_a_name_of_its_own(plain):
    names = [node.name for node in plain["language"].graph.node if node.name]
    assert len(set(names)) == len(names)


def test_rwkv6_has_no_loop_and_rwkv7_keeps_its_scan(plain, built):
    n_scans = sum(node.op_type in ("Scan", "Loop") for node in plain["language"].graph.node)
    assert n_scans == {6: 0, 7: built.manifest.config.language.n_layers}[built.manifest.config.language.version]


@pytest.mark.parametrize("n_tokens", [1, 11])
def test_numbers_are_those_of_the_bundle(plain, built, tmp_path, n_tokens):
    rng = np.random.default_rng(n_tokens)
    for link in tmp_path.glob("*.data"):  # ONNX Runtime opens no weights through links
        weights = link.resolve()
        link.unlink()
        shutil.copyfile(weights, link)
    for name, spec in built.manifest.contract.items():
        sizes = {"F": 2, "B": 1, "T": n_tokens}
        inputs = {
            tensor.name: (rng.integers(0, 255, tensor.resolve(**sizes)) if name == "vision" else
                          rng.normal(size=tensor.resolve(**sizes))).astype(tensor.dtype)
            for tensor in spec.inputs
        }  # fmt: skip
        paths = (built.path / built.manifest.files[name], tmp_path / f"{name}.onnx")
        expected, actual = (onnxruntime.InferenceSession(str(path)).run(None, inputs) for path in paths)
        for x, y in zip(actual, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


def test_weights_are_not_copied(plain, built, tmp_path):
    links = [path for path in tmp_path.iterdir() if path.is_symlink()]
    assert {link.resolve() for link in links} == set(built.path.resolve().glob("onnx/*.data"))


def model_of_one_layer(folder: Path, *, bits: int = 8, location: str = "") -> tuple[Path, np.ndarray]:
    """y = x @ weight.T by MatMulNBits, 70 inputs in blocks of 32; the file, and the weight as its definition says."""
    rng = np.random.default_rng(0)
    codes, scales = round_weight("w", rng.normal(size=(24, 70)).astype(np.float32), 8, 32)
    node = helper.make_node("MatMulNBits", ["x", "w.int8", "w.scales"], ["y"], domain="com.microsoft", K=70, N=24,
                            bits=bits, block_size=32)  # fmt: skip
    values = [helper.make_tensor_value_info(*described) for described in (("x", 1, ["F", 70]), ("y", 1, ["F", 24]))]
    tensors = [numpy_helper.from_array(codes, "w.int8"), numpy_helper.from_array(scales, "w.scales")]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    weight = dequantized(model)["w"]
    if location:
        model.graph.initializer[0].data_location = TensorProto.EXTERNAL
        model.graph.initializer[0].external_data.add(key="location", value=location)
    (folder / "vision.onnx").write_bytes(model.SerializeToString())
    (folder / "out").mkdir()
    return folder / "vision.onnx", weight


def test_weights_of_8_bits_keep_their_integers(tmp_path):
    source, weight = model_of_one_layer(tmp_path)
    plain = write_plain_graph(source, tmp_path / "out")
    model = onnx.load(plain)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "MatMul"]
    integers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert integers["w.int8"].dtype == np.int8
    assert integers["w.int8"].shape == (70, 24)
    assert integers["w.scales"].shape == (3, 24)
    x = np.random.default_rng(1).normal(size=(3, 70)).astype(np.float32)
    options = onnxruntime.SessionOptions()  # otherwise it makes MatMulNBits of it again, and rounds the activations
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    (y,) = onnxruntime.InferenceSession(str(plain), options).run(None, {"x": x})
    np.testing.assert_allclose(y, x @ weight.T, rtol=0, atol=1e-5 * np.abs(y).max())


def test_other_bits_are_refused(tmp_path):
    source, _ = model_of_one_layer(tmp_path, bits=4)
    with pytest.raises(IncompatibleError, match=r"vision\.onnx: .*MatMulNBits of 4 bits with 3 inputs"):
        write_plain_graph(source, tmp_path / "out")


def test_weights_elsewhere_are_refused(tmp_path):
    source, _ = model_of_one_layer(tmp_path, location="../secret")
    with pytest.raises(IntegrityError, match=r"weights in '\.\./secret', not in a file beside it"):
        write_plain_graph(source, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_operators_of_a_runtime_are_refused_by_name(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = helper.make_node("FusedMatMul", ["x"], ["y"], domain="com.microsoft")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "vision.onnx")
    (tmp_path / "out").mkdir()
    with pytest.raises(IncompatibleError, match=r"vision\.onnx: com\.microsoft::FusedMatMul: not an operator"):
        write_plain_graph(tmp_path / "vision.onnx", tmp_path / "out")
