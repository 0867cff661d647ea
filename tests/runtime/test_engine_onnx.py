from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest
from onnx import helper

from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES, graphs
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError
from aurora_export.runtime.engine_onnx import OnnxEngine
from handmade_bundle import FILES, OPSET, handmade_config

SPECS = graphs(handmade_config())


@pytest.fixture
def language(bundle):
    return OnnxEngine(bundle / FILES["language"], SPECS["language"], threads=1)


def embeddings(n_tokens, seed=0):
    return np.random.default_rng(seed).normal(size=(n_tokens, 8)).astype(np.float32)


def zero_inputs(spec):
    return {tensor.name: np.zeros(tensor.resolve(B=1, T=1), tensor.dtype) for tensor in spec.inputs}


def test_run_gives_every_output_by_name(bundle):
    vision = OnnxEngine(bundle / FILES["vision"], SPECS["vision"], threads=1)
    outputs = vision.run({"frames": np.zeros((3, 16, 16, 3), np.uint8)})
    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        tensor.name: (tensor.resolve(F=3), tensor.dtype) for tensor in SPECS["vision"].outputs
    }
    assert vision.backend == "onnxruntime-cpu"


def test_a_loop_equals_plain_runs(language):
    """Bound buffers, T changing all the time: the bits of `run` with the state passed by hand."""
    loop = language.open_loop()
    inputs = zero_inputs(SPECS["language"])
    for step, n_tokens in enumerate([1, 1, 7, 1, MAX_CHUNK_TOKENS, 3, 1, 1]):
        inputs["embeddings"] = embeddings(n_tokens, step)[None]
        outputs = language.run(inputs)
        logits = loop.advance(embeddings(n_tokens, step))
        inputs.update({name: outputs[f"next_{name}"] for name in STATE_NAMES})
        np.testing.assert_array_equal(logits, outputs["logits"][0])
        for name, array in loop.read_state().items():
            np.testing.assert_array_equal(array, inputs[name])


def test_a_loop_takes_strided_embeddings(language):
    loops = [language.open_loop() for _ in range(2)]
    strided = embeddings(20)[::2]
    np.testing.assert_array_equal(loops[0].advance(strided), loops[1].advance(strided.copy()))


def test_state_read_and_written(language):
    loop, other = language.open_loop(), language.open_loop()
    loop.advance(embeddings(5))
    state = loop.read_state()
    other.advance(embeddings(3, 1))  # an odd number of runs: the other buffer set is current
    other.write_state(state)
    np.testing.assert_array_equal(other.advance(embeddings(1, 2)), loop.advance(embeddings(1, 2)))
    kept = {name: array.copy() for name, array in state.items()}
    loop.advance(embeddings(1, 3))
    for name in STATE_NAMES:
        np.testing.assert_array_equal(state[name], kept[name])


def test_state_of_another_shape_is_refused(language):
    state = language.open_loop().read_state()
    state["wkv"] = state["wkv"][:1]
    with pytest.raises(ValueError, match="wkv is float32"):
        language.open_loop().write_state(state)


@pytest.mark.parametrize("n_tokens", [0, MAX_CHUNK_TOKENS + 1])
def test_chunks_have_a_limit(n_tokens, language):
    with pytest.raises(ValueError, match="1 to 256 are possible"):
        language.open_loop().advance(embeddings(n_tokens))


def test_loops_in_threads_do_not_mix(language):
    def run(seed, results):
        loop = language.open_loop()
        for step in range(50):
            logits = loop.advance(embeddings(1 + step % 3, seed + step))
        results[seed] = logits.copy()

    alone, together = {}, {}
    for seed in range(4):
        run(seed, alone)
    threads = [threading.Thread(target=run, args=(seed, together)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(4):
        np.testing.assert_array_equal(together[seed], alone[seed])


def test_differences_from_the_contract_are_named(bundle, tmp_path):
    model = onnx.load(bundle / FILES["language"])
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(IncompatibleError) as caught:
        OnnxEngine(tmp_path / "other.onnx", SPECS["language"])
    assert caught.value.message == (
        f"{tmp_path}/other.onnx: the graph is not as the contract says: "
        "input embeddings is tensor(float) [B, 7, 8], expected tensor(float) [B, T, 8]; "
        "output logits is missing; output scores is unknown"
    )


def test_another_type_is_named(bundle):
    spec = SPECS["vision"]
    wrong = spec.model_copy(update={"inputs": (spec.inputs[0].model_copy(update={"dtype": "float32"}),)})
    with pytest.raises(IncompatibleError, match=r"frames is tensor\(uint8\) .* expected tensor\(float\)"):
        OnnxEngine(bundle / FILES["vision"], wrong)


@pytest.mark.parametrize("content", [b"", b"not a graph", bytes(1000)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_graph(content, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"broken\.onnx: ONNX Runtime cannot open this graph: "):
        OnnxEngine(path, SPECS["language"])


def test_a_truncated_graph(bundle, tmp_path):
    data = (bundle / FILES["language"]).read_bytes()
    path = tmp_path / "short.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(IntegrityError, match="cannot open this graph"):
        OnnxEngine(path, SPECS["language"])


def test_an_unknown_operator(bundle, tmp_path):
    model = onnx.load(bundle / FILES["language"])
    model.graph.node[0].domain = "elsewhere"
    model.opset_import.append(helper.make_opsetid("elsewhere", 1))
    assert OPSET
    path = tmp_path / "foreign.onnx"
    onnx.save(model, path)
    with pytest.raises((IntegrityError, IncompatibleError), match="elsewhere"):
        OnnxEngine(path, SPECS["language"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"threads": 0}, "threads is 0; at least 1 is needed")],
)
def test_bad_options(options, message, bundle):
    with pytest.raises(UsageError) as caught:
        OnnxEngine(bundle / FILES["vision"], SPECS["vision"], **options)
    assert caught.value.message == message


def test_without_onnx_runtime(bundle):
    """A module that cannot be imported stands in for one that is not installed."""
    program = f"""
import sys
sys.modules["onnxruntime"] = None
from aurora_export.errors import DependencyError
from aurora_export.runtime.session import Aurora
try:
    Aurora.open({str(bundle)!r})
except DependencyError as error:
    print(error.exit_code, error.message, "|", error.hint)
"""
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.startswith("7 ONNX Runtime cannot be imported: ")
    assert "| pip install 'aurora-export[cpu]'" in process.stdout


@pytest.mark.parametrize("location", ["../outside.bin", "{folder}/outside.bin"])
def test_weights_outside_the_bundle_are_never_read(tmp_path, location):
    """A hostile graph whose weights are a file of the user; ONNX Runtime has to refuse, or we would have to."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(bytes(16))
    weight = onnx.TensorProto(name="weight", data_type=onnx.TensorProto.FLOAT, dims=[4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location.format(folder=tmp_path))
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "weight"], ["y"])], "hostile", values[:1], values[1:])
    graph.initializer.append(weight)
    path = tmp_path / "bundle.aurora" / "hostile.onnx"
    path.parent.mkdir()
    opset = helper.make_opsetid("", OPSET)
    path.write_bytes(helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())
    with pytest.raises(IntegrityError, match="ONNX Runtime cannot open this graph") as caught:
        OnnxEngine(path, SPECS["language"], threads=1)
    assert "External data path" in caught.value.message


def test_onnxruntime_reports_to_nobody(tmp_path):
    """What Microsoft's packages would report they keep in a database in the home folder; nothing of it in CI."""
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    program = "from aurora_export.runtime.engine_onnx import load_library; load_library()"
    subprocess.run([sys.executable, "-c", program], check=True, env={**environment, "HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("*"))
