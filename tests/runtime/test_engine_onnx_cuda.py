"""ONNX Runtime on a GPU, with a stand-in for the provider: the buffers, the ids of CUDA graphs, and every refusal."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from aurora_export.contract import STATE_NAMES, graphs
from aurora_export.errors import DependencyError, UsageError
from aurora_export.nvidia_driver import Gpu
from aurora_export.runtime import engine_onnx, engine_onnx_cuda
from aurora_export.runtime.device import Device, parse_device
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.session import Aurora
from cuda_stand_in import StandIn
from handmade_bundle import FILES, handmade_config

SPECS = graphs(handmade_config())
GPU = Gpu(0, "stand-in", "9.0", 2**30, "13.0")


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    module = StandIn()
    monkeypatch.setattr(engine_onnx, "load_library", lambda: module)
    monkeypatch.setattr(engine_onnx_cuda, "gpu", lambda index: GPU)
    monkeypatch.setenv("AURORA_CUDA_LIBRARIES", "off")
    return module


def opened(bundle, name="language", device="cuda"):
    return OnnxEngine(bundle / FILES[name], SPECS[name], threads=1, device=parse_device(device))


def embeddings(n_tokens, seed=0):
    return np.random.default_rng(seed).normal(size=(n_tokens, 8)).astype(np.float32)


def test_a_loop_on_the_gpu_equals_one_on_the_cpu(bundle, stand_in):
    gpu = opened(bundle)
    assert gpu.backend == "onnxruntime-cuda"
    loop, plain = gpu.open_loop(), opened(bundle, device="cpu").open_loop()
    for step, n_tokens in enumerate([1, 1, 1, 7, 1, 256, 3, 1]):
        tokens = embeddings(n_tokens, step)
        np.testing.assert_array_equal(loop.advance(tokens), plain.advance(tokens))
        for name, array in plain.read_state().items():
            np.testing.assert_array_equal(loop.read_state()[name], array)
    graphs_of_steps = [graph for n_tokens, graph in stand_in.runs if n_tokens == 1]
    assert graphs_of_steps == ["1", "2", "1", "1", "2"], "each direction between the buffers has a graph of its own"
    assert {graph for n_tokens, graph in stand_in.runs if n_tokens != 1} == {"-1"}


def test_state_moves_between_loops(bundle, stand_in):
    engine = opened(bundle)
    loop, other = engine.open_loop(), engine.open_loop()
    loop.advance(embeddings(5))
    other.advance(embeddings(1, 1))
    other.write_state(loop.read_state())
    np.testing.assert_array_equal(other.advance(embeddings(1, 2)), loop.advance(embeddings(1, 2)))
    state = loop.read_state()
    with pytest.raises(ValueError, match="wkv is float32"):
        loop.write_state({**state, "wkv": state["wkv"][:1]})


def test_buffers_of_a_loop_that_is_gone_are_taken_again(bundle, stand_in):
    engine = opened(bundle)
    first, second = engine.open_loop(), engine.open_loop()
    for loop in (first, second):
        loop.advance(embeddings(1))
        loop.advance(embeddings(1))
    del first, loop
    gc.collect()
    third = engine.open_loop()
    assert not any(array.any() for array in third.read_state().values()), "a new loop begins at zero"
    third.advance(embeddings(1))
    assert {graph for _, graph in stand_in.captured} == {"1", "2", "3", "4"}, "no third pair of CUDA graphs"
    assert len(stand_in.runs) == 5


def test_runs_with_arrays_of_the_moment_are_not_captured(bundle, stand_in):
    engine = opened(bundle)
    inputs = {tensor.name: np.zeros(tensor.resolve(B=1, T=2), tensor.dtype) for tensor in SPECS["language"].inputs}
    assert set(engine.run(inputs)) == {"logits", *(f"next_{name}" for name in STATE_NAMES)}
    opened(bundle, "vision").run({"frames": np.zeros((1, 16, 16, 3), np.uint8)})
    assert stand_in.runs == [("run", "-1"), ("run", None)]
    assert [session.cuda_options for session in stand_in.sessions] == [
        {"device_id": "0", "use_tf32": "0", "enable_cuda_graph": enabled} for enabled in "10"
    ]


def test_where_no_graph_can_be_captured_it_runs_without(bundle, stand_in):
    stand_in.allows_graphs = False
    loop = opened(bundle).open_loop()
    loop.advance(embeddings(1))
    assert stand_in.runs == [(1, None)]


def test_a_session_on_the_gpu_answers_as_on_the_cpu(bundle, stand_in, frames):
    answers = []
    for device in ("cpu", "cuda"):
        with Aurora.open(bundle, device=device, threads=1) as aurora:
            aurora.watch(frames)
            answers.append(list(aurora.fork().generate_ids("what?", max_tokens=6)))
            assert aurora.header.backend == f"onnxruntime-{device}"
    assert answers[0] == answers[1]


def test_an_onnx_runtime_for_cpus_is_named(bundle, stand_in):
    stand_in.has_provider = False
    with pytest.raises(DependencyError, match="needs onnxruntime-gpu; this is onnxruntime 1") as caught:
        opened(bundle)
    assert "pip uninstall onnxruntime" in caught.value.hint


def test_a_provider_that_does_not_load_is_named(bundle, stand_in):
    """ONNX Runtime goes on with the CPU then, and says so on stderr only."""
    stand_in.provider_loads = False
    with pytest.raises(DependencyError, match="cannot load its CUDA provider"):
        opened(bundle)


def test_without_a_driver(bundle, monkeypatch):
    monkeypatch.setattr(engine_onnx, "load_library", StandIn)
    monkeypatch.setattr("aurora_export.nvidia_driver.LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(DependencyError, match="no NVIDIA driver: libno_such_driver"):
        opened(bundle)


def test_without_the_operators(bundle, stand_in, monkeypatch, tmp_path):
    monkeypatch.setenv("AURORA_CUDA_LIBRARIES", str(tmp_path))
    with pytest.raises(DependencyError, match=r"libaurora_ort_cuda\.so was not built") as caught:
        opened(bundle)
    assert "AURORA_CUDA_LIBRARIES=off runs slowly" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "device"), [("cpu", Device("cpu")), ("cuda", Device("cuda")), ("tensorrt:2", Device("tensorrt", 2))]
)
def test_devices(text, device):
    assert parse_device(text) == device
    assert str(device) == text


@pytest.mark.parametrize("text", ["tpu", "cpu:0", "cuda:", "cuda:x", "CUDA", ""])
def test_what_is_no_device(text):
    with pytest.raises(UsageError, match="unknown device"):
        parse_device(text)
