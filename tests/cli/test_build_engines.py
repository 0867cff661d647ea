"""build --target: what the command line refuses before anything is built, and what it says afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from aurora_export.export import engine_from_onnx


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "tensorrt-rtx", "--compute-capability", "8.6"], "no bundle"),
        (["x.aurora", "--target", "tensorrt-rtx", "--out", "y"], "--out has no meaning with --target"),
        (["x.aurora", "--target", "tensorrt-rtx", "--precision", "fp16"], "--precision has no meaning with --target"),
        (["x.aurora", "--target", "tensorrt-rtx", "--set", "a.b=1"], "--set has no meaning with --target"),
        (["x.aurora", "--target", "xavier"], "target xavier: unknown"),
        (
            ["x.aurora", "--target", "orin", "--compute-capability", "8.7"],
            "--compute-capability has no meaning for orin",
        ),
        (["x.aurora", "--target", "thor", "--optimization-level", "6"], "optimization level 6: it is 0 to 5"),
        (["x.aurora", "--target", "thor", "--hardware-compatible", "all"], "hardware level all: unknown"),
        (
            ["x.aurora", "--target", "tensorrt-rtx", "--gpu", "1"],
            "options of TensorRT have no meaning for tensorrt-rtx",
        ),
        (["x.aurora", "--gpu", "1", "--out", "y"], "--gpu is for engines"),
        (["x.aurora", "--keep-graphs", "g", "--out", "y"], "--keep-graphs is for engines"),
        (["x.aurora", "--target", "tensorrt-rtx"], "compute capability missing"),
        (["x.aurora", "--compute-capability", "8.6", "--out", "y"], "--compute-capability is for engines"),
        (["x.aurora"], "no --out"),
    ],
)
def test_usage_errors(refused, arguments, message):
    said, code = refused("build", *arguments)
    assert message in said
    assert code == 2


def test_engines_are_named_with_their_sizes(invoke, bundle_copy, monkeypatch):
    def write(job, **_):
        Path(job["engine"]).write_bytes(bytes(1_500_000))
        return {"version": "1.7.1"}

    monkeypatch.setattr(engine_from_onnx, "run_builder", write)
    monkeypatch.setattr(engine_from_onnx, "find_spec", lambda name: name)
    result = invoke("build", bundle_copy, "--target", "tensorrt-rtx", "--compute-capability", "8.6")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"{bundle_copy}: engines for tensorrt-rtx, compute capability 8.6",
        "  engines/tensorrt-rtx/vision.engine: 1.5 MB, 1 profiles",
        "  engines/tensorrt-rtx/language.engine: 1.5 MB, 2 profiles",
        "  open with tensorrt_rtx 1.7.1 only",
    ]
    shown = invoke("info", bundle_copy).stdout
    assert "engines for tensorrt-rtx" in shown
    assert "tensorrt_rtx 1.7.1" in shown
