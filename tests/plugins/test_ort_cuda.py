"""The operator library of ONNX Runtime's CUDA provider: built for a GPU as far as this goes, and with emulated kernels.

The same source, compiled as C++ against the emulation and for the CPU provider, runs inside of ONNX Runtime.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from aurora_export.plugins import DOMAIN, OP_VERSION, WKV_OPS
from aurora_export.plugins.wkv.onnx_function import wkv_function
from aurora_export.plugins.wkv.op import INPUTS, OUTPUTS
from emulated_operators import compile_operators

OPSET = 20
HEADS = 2


@pytest.fixture(scope="module")
def library(root, tmp_path_factory) -> Path:
    return compile_operators(root, tmp_path_factory.mktemp("operators") / "libaurora_ort_cuda.so")


@pytest.fixture(params=WKV_OPS.values())
def op_type(request) -> str:
    return request.param


def sizes_of(shape: str, n_tokens: int, size: int) -> list[int]:
    letters = {"B": 1, "T": n_tokens, "H": HEADS, "N": size}
    return [letters[letter] for letter in shape.strip("()").split(", ")]


def session(op_type: str, *, library: Path | None, n_tokens: int = 3, size: int = 64):
    """A graph of one node that carries its function; with the library, or without."""
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes_of(shape, n_tokens, size))
        for name, shape in {**INPUTS[op_type], **OUTPUTS}.items()
    }
    node = helper.make_node(op_type, list(INPUTS[op_type]), list(OUTPUTS), domain=DOMAIN, name="wkv")
    graph = helper.make_graph(
        [node], "g", [values[name] for name in INPUTS[op_type]], [values[name] for name in OUTPUTS]
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, OP_VERSION)]
    function = wkv_function(op_type, opset=OPSET)
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def inputs_of(op_type: str, n_tokens: int, size: int = 64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n_tokens)
    arrays = {
        name: rng.normal(size=sizes_of(shape, n_tokens, size)).astype(np.float32) / 4
        for name, shape in INPUTS[op_type].items()
    }
    arrays["log_decay"] = -np.abs(arrays["log_decay"])
    return arrays


@pytest.mark.parametrize("n_tokens", [1, 2, 9])
def test_the_operator_equals_the_function_of_the_file(library, op_type, n_tokens):
    inputs = inputs_of(op_type, n_tokens)
    ours = session(op_type, library=library, n_tokens=n_tokens).run(None, inputs)
    function = session(op_type, library=None, n_tokens=n_tokens).run(None, inputs)
    for actual, expected in zip(ours, function, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def test_the_operator_runs_in_the_place_of_the_function(library, op_type):
    """The kernels refuse what the function would compute."""
    with pytest.raises(Exception, match="head_size: is 32; the CUDA kernels are for 64"):
        session(op_type, library=library, size=32).run(None, inputs_of(op_type, 3, 32))
    session(op_type, library=None, size=32).run(None, inputs_of(op_type, 3, 32))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="`make cuda` builds it, where nvcc is")
def test_built_for_a_gpu_it_registers_and_its_kernels_are_the_cuda_providers_alone(root, op_type):
    """On a CPU its schema is seen, and then nothing implements the node: not even its function."""
    library = root / "build/plugins/libaurora_ort_cuda.so"
    if not library.is_file():
        pytest.skip("`make cuda` was not run")
    with pytest.raises(Exception, match=f"Could not find an implementation for {op_type}"):
        session(op_type, library=library)
    needed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    assert "not found" not in needed
    assert not [line for line in needed.splitlines() if "onnxruntime" in line or "cudart" in line]
