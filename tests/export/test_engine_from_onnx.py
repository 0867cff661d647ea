"""Engines into a bundle: what is refused, what is written, and that a failure leaves the bundle as it was.

The builder is a stand-in here; tests/export/test_rtx_builder.py runs the real one.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from aurora_export.cli.progress import Progress
from aurora_export.errors import DependencyError, IncompatibleError, UsageError
from aurora_export.export import engine_from_onnx as module
from aurora_export.export.engine_from_onnx import PROFILES, RTX, build_engines, shapes_of
from aurora_export.manifest import digest_files, read_manifest, verify_files


@pytest.fixture
def jobs(monkeypatch) -> list[dict]:
    """Jobs that the stand-in was given; it writes the number of the job as the engine."""
    seen: list[dict] = []

    def run(job, **_):
        seen.append(job)
        Path(job["engine"]).write_text(f"engine {len(seen)}")
        return {"version": "1.7.1"}

    monkeypatch.setattr(module, "run_builder", run)
    monkeypatch.setattr(module, "find_spec", lambda name: name)
    return seen


def build(bundle: Path, *capabilities: str, target: str = RTX):
    return build_engines(bundle, target=target, compute_capabilities=capabilities, progress=Progress())


def leftovers(bundle: Path) -> list[Path]:
    return [path for path in bundle.parent.iterdir() if path.name.startswith(".")]


def test_engines_are_files_of_the_bundle_like_others(bundle_copy, jobs):
    before = read_manifest(bundle_copy)
    returned = build(bundle_copy, "8.9", "8.6")
    manifest = read_manifest(bundle_copy)
    verify_files(bundle_copy, manifest)
    assert manifest == returned
    assert manifest.digests == digest_files(bundle_copy)
    assert manifest.fingerprint == before.fingerprint
    variant = manifest.engines[RTX]
    assert variant.files == {name: f"engines/tensorrt-rtx/{name}.engine" for name in ("vision", "language")}
    assert variant.builder == {"tensorrt_rtx": "1.7.1"}
    assert variant.compute_capabilities == ("8.6", "8.9")
    assert variant.profiles == PROFILES
    assert not leftovers(bundle_copy)
    assert [job["compute_capabilities"] for job in jobs] == [["8.6", "8.9"]] * 2


def test_profiles_are_shapes_of_the_contract(built6):
    spec = built6.manifest.contract["language"]
    width, n_layers = built6.manifest.config.language.width, built6.manifest.config.language.n_layers
    step, prefill = (shapes_of(spec, profile) for profile in PROFILES["language"])
    assert step["embeddings"] == [[1, 1, width]] * 3
    assert prefill["embeddings"] == [[1, 1, width], [1, 256, width], [1, 256, width]]
    assert step["att_shift"] == [[n_layers, 1, width]] * 3
    assert set(step) == {tensor.name for tensor in spec.inputs}


def test_engines_are_replaced(bundle_copy, jobs):
    build(bundle_copy, "8.6")
    build(bundle_copy, "8.9")
    manifest = read_manifest(bundle_copy)
    verify_files(bundle_copy, manifest)
    assert manifest.engines[RTX].compute_capabilities == ("8.9",)
    assert (bundle_copy / manifest.engines[RTX].files["vision"]).read_text() == "engine 3"


@pytest.mark.parametrize("had_engines", [False, True])
@pytest.mark.parametrize("step", ["run_builder", "write_manifest"])
def test_a_failure_leaves_the_bundle_as_it_was(bundle_copy, jobs, monkeypatch, had_engines, step):
    if had_engines:
        build(bundle_copy, "8.6")
    before = digest_files(bundle_copy)

    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, fail)
    with pytest.raises(KeyboardInterrupt):
        build(bundle_copy, "8.9")
    assert digest_files(bundle_copy) == before
    verify_files(bundle_copy, read_manifest(bundle_copy))
    assert (bundle_copy / "engines").exists() == had_engines
    assert not leftovers(bundle_copy)


@pytest.mark.parametrize("capabilities", [(), ("8.7",), ("8.6", "9.0"), ("8.6", "8.6"), ("sm_86",)])
def test_compute_capabilities_are_refused_by_name(bundle_copy, jobs, capabilities):
    with pytest.raises(UsageError, match=", ".join(capabilities) or "missing"):
        build(bundle_copy, *capabilities)
    assert not jobs


def test_other_refusals(bundle_copy, jobs, monkeypatch):
    with pytest.raises(UsageError, match="target xavier: unknown"):
        build(bundle_copy, "8.6", target="xavier")
    with pytest.raises(UsageError, match="--compute-capability has no meaning for orin"):
        build(bundle_copy, "8.7", target="orin")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="needs tensorrt-rtx, not installed here"):
        build(bundle_copy, "8.6")
    assert not jobs


def test_graphs_are_kept_with_their_weights_also_where_the_builder_refuses(bundle_copy, jobs, monkeypatch, tmp_path):
    def refuse(job, **_):
        raise IncompatibleError(f"refuses {Path(job['onnx']).name}")

    kept = tmp_path / "kept"
    monkeypatch.setattr(module, "run_builder", refuse)
    arguments = {"target": RTX, "compute_capabilities": ("8.6",), "kept_graphs": kept, "progress": Progress()}
    with pytest.raises(IncompatibleError, match=r"refuses vision\.onnx"):
        build_engines(bundle_copy, **arguments)
    assert {path.name for path in kept.iterdir()} == {"vision.onnx", "vision.onnx.data"}
    assert not any(path.is_symlink() for path in kept.iterdir())
    assert all(node.domain == "" for node in onnx.load(kept / "vision.onnx").graph.node)
    with pytest.raises(UsageError, match="kept: exists, and is not overwritten"):
        build_engines(bundle_copy, **arguments)


def test_too_little_memory_is_said(monkeypatch, caplog):
    monkeypatch.setattr(module.os, "sysconf", lambda _: 1000)
    module.warn_of_memory("language", 10**9)
    assert "language: the build may need 4.4 GB of memory; 0.0 GB are free" in caplog.text
