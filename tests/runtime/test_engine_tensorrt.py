"""Engines of TensorRT over stand-ins for TensorRT and CUDA, whose streams do their work as late as they may."""

from __future__ import annotations

import ctypes
import gc
import sys

import numpy as np
import pytest

from aurora_export import nvidia_driver
from aurora_export.contract import STATE_NAMES, graphs
from aurora_export.errors import DependencyError, IncompatibleError, ResourceError
from aurora_export.manifest import read_manifest
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.engine_tensorrt import TensorRtEngine
from aurora_export.runtime.opened_bundle import open_bundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.tensorrt_library import TensorRt
from driver_stand_in import write_driver
from handmade_bundle import FILES, handmade_config
from tensorrt_engines import write_engines

SPECS = graphs(handmade_config())
RTX = {"target": "tensorrt-rtx", "version": "1.7.1.116", "gpu": None, "package": "tensorrt_rtx"}


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    return write_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def cuda(root, driver, monkeypatch):
    """The stand-ins in the place of the packages; returns that of CUDA. Afterwards nothing may be left on the GPU."""
    monkeypatch.syspath_prepend(str(root / "tests/tensorrt_stand_in"))
    names = ("tensorrt", "tensorrt_rtx", "cuda", "cuda.bindings", "cuda.bindings.runtime")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(nvidia_driver, "LIBRARY", str(driver))
    monkeypatch.setenv("AURORA_CUDA_LIBRARIES", "off")
    import tensorrt
    from cuda.bindings import runtime

    monkeypatch.setattr(tensorrt, "_driver", lambda: ctypes.CDLL(str(driver)))
    yield runtime
    gc.collect()
    left = (runtime.device_memory, runtime.pinned_memory, runtime.streams, runtime.events, runtime.graphs)
    for name in names:
        sys.modules.pop(name, None)
    assert [len(kind) for kind in left] == [0] * 5


@pytest.fixture
def engines(bundle_copy, cuda):
    return write_engines(bundle_copy)


@pytest.fixture
def rtx_engines(bundle_copy, cuda):
    return write_engines(bundle_copy, **RTX)


def language_of(bundle) -> TensorRtEngine:
    variant = read_manifest(bundle).engines["orin"]
    path = bundle / variant.files["language"]
    return TensorRtEngine(TensorRt(0), path, SPECS["language"], variant.profiles["language"])


def plain_loop(bundle):
    return OnnxEngine(bundle / FILES["language"], SPECS["language"], threads=1).open_loop()


def embeddings(n_tokens, seed=0):
    return np.random.default_rng(seed).normal(size=(n_tokens, 8)).astype(np.float32)


def test_a_loop_equals_one_of_onnx_runtime(engines):
    loop, plain = language_of(engines).open_loop(), plain_loop(engines)
    for step, n_tokens in enumerate([1, 1, 1, 1, 7, 1, 256, 3, 3, 1]):
        tokens = embeddings(n_tokens, step)
        np.testing.assert_array_equal(loop.advance(tokens), plain.advance(tokens))
        for name, array in plain.read_state().items():
            np.testing.assert_array_equal(loop.read_state()[name], array)


def test_feeding_waits_for_nothing_and_loses_nothing(engines, cuda):
    """Three chunks: the third takes the pinned array of the first, which must have been copied by then."""
    loop, plain = language_of(engines).open_loop(), plain_loop(engines)
    for either in (loop, plain):
        either.advance(embeddings(5))  # the context is made now, and waited for
    cuda.calls.clear()
    for seed in (1, 2):
        loop.feed(embeddings(5, seed))
    assert cuda.calls == ["copy in", "execute profile 1"] * 2
    assert sum(len(stream.queue) for stream in cuda.streams.values()) >= 4, "nothing was run yet"
    loop.feed(embeddings(5, 3))
    assert "wait" not in cuda.calls
    for seed in (1, 2, 3):
        plain.advance(embeddings(5, seed))
    np.testing.assert_array_equal(loop.advance(embeddings(1, 4)), plain.advance(embeddings(1, 4)))


def test_the_step_is_captured_once_for_each_direction(engines, cuda):
    loop = language_of(engines).open_loop()
    cuda.calls.clear()
    for step in range(6):
        loop.advance(embeddings(1, step))
    enqueued = [name for name in cuda.calls if not name.startswith(("copy", "wait"))]
    plain, captured = ["execute profile 0"], ["execute profile 0", "launch"]
    assert enqueued == plain + captured + captured + ["launch"] * 3


def test_where_nothing_can_be_captured_it_steps_without(engines, cuda):
    cuda.limits.can_capture = False
    loop, plain = language_of(engines).open_loop(), plain_loop(engines)
    for step in range(4):
        np.testing.assert_array_equal(loop.advance(embeddings(1, step)), plain.advance(embeddings(1, step)))
    assert "launch" not in cuda.calls


def test_state_moves_between_loops_and_buffers_are_taken_again(engines, cuda):
    engine = language_of(engines)
    loop, other = engine.open_loop(), engine.open_loop()
    for step in range(3):
        loop.advance(embeddings(1, step))
    other.write_state(loop.read_state())
    np.testing.assert_array_equal(other.advance(embeddings(4, 9)), loop.advance(embeddings(4, 9)))
    with pytest.raises(ValueError, match="wkv is float32"):
        loop.write_state({**loop.read_state(), "wkv": np.zeros((1, 1), np.float32)})
    n_arrays = len(cuda.device_memory)
    del loop
    gc.collect()
    third = engine.open_loop()
    assert len(cuda.device_memory) == n_arrays
    assert not any(array.any() for array in third.read_state().values()), "a new loop begins at zero"


@pytest.mark.parametrize("n_tokens", [1, 5])
def test_a_run_gives_every_output_by_name(engines, n_tokens):
    inputs = {
        tensor.name: np.random.default_rng(1).normal(size=tensor.resolve(B=1, T=n_tokens)).astype(np.float32)
        for tensor in SPECS["language"].inputs
    }
    plain = OnnxEngine(engines / FILES["language"], SPECS["language"], threads=1).run(inputs)
    ours = language_of(engines).run(inputs)
    assert set(ours) == {"logits", *(f"next_{name}" for name in STATE_NAMES)}
    for name, array in plain.items():
        np.testing.assert_array_equal(ours[name], array)


def test_more_frames_than_a_run_takes(engines):
    opened = open_bundle(engines, device="tensorrt")
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    plain = OnnxEngine(engines / FILES["vision"], SPECS["vision"], threads=1).run({"frames": frames})
    for name, array in opened.vision.run({"frames": frames}).items():
        np.testing.assert_allclose(array, plain[name], rtol=1e-6)


def test_a_session_answers_as_on_the_cpu(engines, rtx_engines, frames):
    answers = []
    for device in ("cpu", "tensorrt", "tensorrt-rtx"):
        with Aurora.open(engines, device=device) as aurora:
            aurora.watch(frames)
            answers.append([list(aurora.fork().generate_ids(q, max_tokens=6)) for q in ("what?", "who?")])
            assert aurora.header.backend == {"cpu": "onnxruntime-cpu"}.get(device, device)
    assert answers[0] == answers[1] == answers[2]


def test_vision_of_the_next_frame_does_not_wait_for_prefill(engines, cuda, frames):
    with Aurora.open(engines, device="tensorrt") as aurora:
        waiting = []
        cuda.calls.clear()
        for _ in aurora.watch(
            frames[:3],
            on_frame=lambda _: waiting.append(
                [name for stream in cuda.streams.values() for name, _ in stream.queue if name.startswith("execute")]
            ),
        ).warnings:
            pass  # fmt: skip
        # Frame n was seen, and its prefill still waits: vision had a stream of its own to wait for.
        assert all(names and set(names) == {"execute profile 1"} for names in waiting)


def test_a_gpu_without_memory(engines, cuda):
    cuda.limits.device_bytes = 100
    with pytest.raises(ResourceError, match="GPU's memory ran out"):
        language_of(engines).open_loop()


@pytest.mark.parametrize(
    ("built", "difference"),
    [
        ({"version": "10.16.1"}, r"TensorRT is 10\.16\.1, here 10\.3\.0"),
        ({"capability": "9.0"}, r"compute capability is 9\.0, here 8\.7"),
        ({"gpu": "Orin NX"}, "GPU is Orin NX, here Orin"),
        ({"version": "9.0.0", "compatible": ("version",)}, r"TensorRT is 9\.0\.0, here 10\.3\.0"),
    ],
)
def test_engines_that_do_not_fit_are_refused_by_the_field(bundle_copy, cuda, built, difference):
    write_engines(bundle_copy, **built)
    with pytest.raises(IncompatibleError, match=f"engines/orin: {difference}") as caught:
        open_bundle(bundle_copy, device="tensorrt")
    assert caught.value.hint == f"aurora-export build {bundle_copy} --target orin   (on this device)"


@pytest.mark.parametrize(
    "built",
    [
        {"version": "10.2.0", "compatible": ("version",)},
        {"capability": "8.6", "gpu": "A40", "compatible": ("ampere+",)},
        {"gpu": "Orin NX", "compatible": ("same",)},
    ],
)
def test_engines_that_are_compatible_are_opened(bundle_copy, cuda, built):
    write_engines(bundle_copy, target="other", version="9.9.9", gpu="other")  # those that fit are found
    write_engines(bundle_copy, **built)
    assert open_bundle(bundle_copy, device="tensorrt").language.backend == "tensorrt"


@pytest.mark.parametrize(
    ("built", "difference"),
    [
        ({"version": "1.7.0"}, r"TensorRT-RTX is 1\.7\.0, here 1\.7\.1\.116"),
        ({"capability": "8.9"}, r"compute capability is 8\.9, here 8\.7"),
    ],
)
def test_engines_of_rtx_are_built_again_for_the_gpu_wherever_one_likes(bundle_copy, cuda, built, difference):
    write_engines(bundle_copy)  # those of TensorRT are of no use
    write_engines(bundle_copy, **RTX | built)
    with pytest.raises(IncompatibleError, match=f"engines/tensorrt-rtx: {difference}") as caught:
        open_bundle(bundle_copy, device="tensorrt-rtx")
    assert caught.value.hint == f"aurora-export build {bundle_copy} --target tensorrt-rtx --compute-capability 8.7"


@pytest.mark.parametrize(
    ("device", "title", "options"),
    [
        ("tensorrt", "TensorRT", "tensorrt   (on this device)"),
        ("tensorrt-rtx", "TensorRT-RTX", "tensorrt-rtx --compute-capability 8.7"),
    ],
)
def test_a_bundle_without_engines(bundle, cuda, device, title, options):
    with pytest.raises(IncompatibleError, match=f"has no engines of {title}$") as caught:
        open_bundle(bundle, device=device)
    assert caught.value.hint == f"aurora-export build {bundle} --target {options}"


def test_what_tensorrt_does_not_open_is_refused_with_its_words(engines, cuda):
    path = engines / "engines/orin/language.engine"
    path.write_bytes(b"no engine")
    with pytest.raises(IncompatibleError, match="does not open it: the magic tag does not match"):
        language_of(engines)


def test_another_contract_is_named(engines):
    variant = read_manifest(engines).engines["orin"]
    path = engines / variant.files["language"]
    other = graphs(handmade_config(language={"vocabulary_size": 300}))["language"]
    with pytest.raises(
        IncompatibleError, match=r"logits is output float32 .*260\), expected output float32 \('B', 300"
    ):
        TensorRtEngine(TensorRt(0), path, other, variant.profiles["language"])
    with pytest.raises(IncompatibleError, match="2 profiles, expected 1"):
        TensorRtEngine(TensorRt(0), path, SPECS["language"], variant.profiles["language"][:1])


def test_what_is_missing_is_named_before_tensorrt_is_touched(engines, cuda, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(DependencyError, match="cuda-python cannot be imported"):
        TensorRt(0)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(DependencyError, match="TensorRT cannot be imported"):
        TensorRt(0)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(DependencyError, match="TensorRT-RTX cannot be imported") as caught:
        TensorRt(0, "tensorrt-rtx")
    assert "tensorrt-rtx" in caught.value.hint
    monkeypatch.setattr(nvidia_driver, "LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(DependencyError, match="no NVIDIA driver"):
        TensorRt(0)
