"""Engines of TensorRT against a stand-in for it that has the interface of each version; the real one never built any.

The builder runs in a process of its own, as it would; there the stand-ins are found before anything else.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from aurora_export import nvidia_driver
from aurora_export.cli.progress import Progress
from aurora_export.errors import DependencyError, IncompatibleError
from aurora_export.export import tensorrt_target as target_module
from aurora_export.export.bundle import build_bundle
from aurora_export.export.engine_from_onnx import PROFILES, build_engines, shapes_of
from aurora_export.export.tensorrt_target import TensorRtOptions
from aurora_export.manifest import read_manifest, verify_files
from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint
from aurora_export.runtime.session import Aurora
from driver_stand_in import write_driver
from emulated_operators import compile_operators

IN_MAKE_TENSORRT = pytest.mark.tensorrt
"""Every engine is a process of its own, which takes a second or two."""

VERSIONS = ("10.3.0", *(pytest.param(v, marks=IN_MAKE_TENSORRT) for v in ("10.13.3.9", "10.16.1.11", "11.4.0.106")))


def write_plugins(folder: Path, headers: str = "10.3") -> Path:
    """A library in the place of our plugins'."""
    source = f'const char* aurora_tensorrt_headers(void) {{ return "{headers}"; }}'
    path = folder / "libaurora_tensorrt.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(path)], input=source, text=True, check=True)
    return path


@pytest.fixture
def device(root, tmp_path, monkeypatch):
    """A machine with an Orin, TensorRT and our plugins, all stood in for. Returns a function that sets the version."""
    folder = tmp_path / "device"
    folder.mkdir()
    driver = write_driver(folder)
    write_plugins(folder)
    monkeypatch.setattr(nvidia_driver, "LIBRARY", str(driver))
    monkeypatch.setattr(target_module, "find_spec", lambda name: name)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    monkeypatch.setenv("AURORA_CUDA_LIBRARIES", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(root / "tests/tensorrt_stand_in"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda version: monkeypatch.setenv("AURORA_TEST_TENSORRT", version)


def build(bundle: Path, target: str = "tensorrt", **options):
    return build_engines(bundle, target=target, options=TensorRtOptions(**options), progress=Progress())


def described(bundle: Path, graph: str, target: str = "tensorrt") -> dict:
    content = (bundle / read_manifest(bundle).engines[target].files[graph]).read_bytes()
    return json.loads(content.partition(b"\n")[0])


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_builds_both_graphs_with_the_plugin(bundle_copy, device, version):
    device(version)
    manifest = build(bundle_copy, "orin", workspace_bytes=10**9, optimization_level=2)
    verify_files(bundle_copy, manifest)
    variant = manifest.engines["orin"]
    assert variant.builder == {"tensorrt": version, "aurora_tensorrt": "10.3"}
    assert (variant.gpu, variant.compute_capabilities, variant.compatible) == ("Orin", ("8.7",), ())
    language = described(bundle_copy, "language", "orin")
    assert language["plugins"] == [f"Wkv{manifest.config.language.version}"]
    assert language["profiles"] == [shapes_of(manifest.contract["language"], p) for p in PROFILES["language"]]
    assert language["flags"] == [], "no TF32, and the types are those of the graph"
    assert language["limits"] == {"WORKSPACE": 10**9}
    assert language["optimization_level"] == 2
    assert described(bundle_copy, "vision", "orin")["plugins"] == []


def test_the_graph_has_no_function_that_could_be_taken_for_the_plugin(built, tmp_path):
    from aurora_export.export.engine_graph import write_plugin_graph

    for name in ("vision", "language"):
        model = onnx.load(
            write_plugin_graph(built.path / built.manifest.files[name], tmp_path), load_external_data=False
        )
        assert not model.functions
        ours = [node for node in model.graph.node if node.domain == "aurora"]
        assert len(ours) == (built.manifest.config.language.n_layers if name == "language" else 0)
        assert {entry.domain for entry in model.opset_import} >= {node.domain for node in model.graph.node}


@IN_MAKE_TENSORRT
def test_compatible_engines_carry_no_program(bundle_copy, device):
    device("10.13.3.9")
    manifest = build(bundle_copy, version_compatible=True, hardware_compatible="same")
    assert manifest.engines["tensorrt"].compatible == ("version", "same")
    vision = described(bundle_copy, "vision")
    assert vision["flags"] == ["EXCLUDE_LEAN_RUNTIME", "VERSION_COMPATIBLE"]
    assert vision["hardware"] == "SAME_COMPUTE_CAPABILITY"


def test_what_a_version_lacks_is_named(bundle_copy, device):
    device("10.3.0")
    with pytest.raises(IncompatibleError, match=r"10\.3\.0 refuses it for 8\.7: this version lacks SAME_COMPUTE"):
        build(bundle_copy, hardware_compatible="same")
    device("10.2.0")
    with pytest.raises(IncompatibleError, match=r"10\.3 is the oldest"):
        build(bundle_copy)
    assert not read_manifest(bundle_copy).engines


@IN_MAKE_TENSORRT
def test_timings_are_kept_and_those_of_another_gpu_are_not_used(bundle_copy, device, tmp_path):
    device("11.4.0.106")
    cache = tmp_path / "times" / "orin.timing"
    build(bundle_copy, timing_cache=cache)
    assert described(bundle_copy, "vision")["cache"] == ""
    assert described(bundle_copy, "language")["cache"] == cache.read_text() == "timing of 8.7"
    cache.write_text("timing of 9.0")
    build(bundle_copy, timing_cache=cache)
    assert described(bundle_copy, "vision")["cache"] == ""
    assert cache.read_text() == "timing of 8.7"
    build(bundle_copy)
    assert [path.name for path in (tmp_path / "cache").rglob("*.timing")] == ["unknown-8.7.timing"]


def test_without_a_driver_no_object_of_tensorrt_is_made(bundle_copy, device, monkeypatch, tmp_path):
    """The stand-in aborts as the real one crashes; the builder's process asks the driver itself."""
    device("10.3.0")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "nothing"))
    with pytest.raises(IncompatibleError, match="ended with exit 1: no NVIDIA driver"):
        build(bundle_copy)
    monkeypatch.setattr(nvidia_driver, "LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(DependencyError, match="no NVIDIA driver: libno_such"):
        build(bundle_copy)


def test_another_gpu_than_the_targets_is_refused(bundle_copy, device):
    device("10.16.1.11")
    with pytest.raises(
        IncompatibleError, match=r"target thor is for compute capability 11\.0; this GPU, Orin, has 8\.7"
    ):
        build(bundle_copy, "thor")
    manifest = build(bundle_copy, "thor", gpu=1)
    assert manifest.engines["thor"].gpu == "Thor"


def test_what_is_not_installed_is_named(bundle_copy, device, monkeypatch, tmp_path):
    device("10.3.0")
    for name, reason in (
        ("nothing", r"libaurora_tensorrt\.so was not built"),
        ("smoke", "was built for our tests"),
        ("other", "not a library of our plugins"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.setenv("AURORA_CUDA_LIBRARIES", str(folder))
        if name == "smoke":
            write_plugins(folder, "0.0")
        elif name == "other":
            (folder / "libaurora_tensorrt.so").write_bytes(b"no library")
        with pytest.raises(DependencyError, match=reason):
            build(bundle_copy)
    monkeypatch.setattr(target_module, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="--target tensorrt needs tensorrt, not installed here"):
        build(bundle_copy)


@IN_MAKE_TENSORRT
def test_what_is_built_answers_as_the_graphs_do(root, device, tmp_path, monkeypatch):
    """The testbed from build to answer; where TensorRT would call the plugin, its kernels are emulated."""
    bundle, clip = tmp_path / "testbed.aurora", root / "testbed/clips/two_shapes.mp4"
    build_bundle(open_checkpoint(CheckpointSource(path=root / "testbed/checkpoint")), bundle)
    device("11.4.0.106")
    build(bundle)
    monkeypatch.setenv("AURORA_TEST_OPERATORS", str(compile_operators(root, tmp_path / "operators.so")))
    monkeypatch.syspath_prepend(str(root / "tests/tensorrt_stand_in"))
    for name in ("tensorrt", "cuda", "cuda.bindings", "cuda.bindings.runtime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import tensorrt

    monkeypatch.setattr(tensorrt, "_driver", lambda: ctypes.CDLL(nvidia_driver.LIBRARY))
    answers = []
    for where in ("cpu", "tensorrt"):
        with Aurora.open(bundle, device=where, threads=1) as aurora:
            aurora.watch(clip)
            answers.append("".join(aurora.ask("Describe the video.")).strip())
    del aurora
    gc.collect()
    for name in ("tensorrt", "cuda.bindings.runtime", "cuda.bindings", "cuda"):
        sys.modules.pop(name, None)
    assert answers == ["A red square moves left. A yellow triangle moves down."] * 2
