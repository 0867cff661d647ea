"""What a builder without plugins gets: standard operators only, and the same numbers."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aurora_export.errors import IncompatibleError
from aurora_export.export.engine_graph import write_plain_graph


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


def test_operators_of_a_runtime_are_refused_by_name(tmp_path):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = helper.make_node("MatMulNBits", ["x"], ["y"], domain="com.microsoft")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), opset_imports=opsets),
              tmp_path / "vision.onnx")  # fmt: skip
    (tmp_path / "out").mkdir()
    with pytest.raises(IncompatibleError, match=r"vision\.onnx: com\.microsoft::MatMulNBits: not an operator"):
        write_plain_graph(tmp_path / "vision.onnx", tmp_path / "out")
