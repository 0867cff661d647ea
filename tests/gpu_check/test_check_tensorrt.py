"""Engines beside ONNX Runtime, in `gpu_check`: the bundle's own graphs take the place of both libraries' engines."""

from __future__ import annotations

import numpy as np
import pytest

import check_tensorrt
from aurora_export.export import engine_from_onnx
from aurora_export.manifest import read_manifest
from aurora_export.runtime import opened_bundle
from handmade_bundle import write_bundle
from tensorrt_engines import write_engines


class Gpu:
    capability = "89"


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Runs a check; `fault` is added to what the engines give."""
    bundle = write_bundle(tmp_path / "handmade.aurora")

    def build_engines(path, *, target, compute_capabilities, progress):
        assert compute_capabilities == (("8.9",) if target == "tensorrt-rtx" else ())
        return read_manifest(write_engines(path, target=target))

    def check(target, fault=0.0):
        def open_bundle(path, *, device, verify):
            opened = opened_here(path, verify=verify)
            if device == "cpu":
                return opened
            run = opened.language.run
            wrong = lambda inputs: {name: array + np.float32(fault) for name, array in run(inputs).items()}  # noqa: E731
            monkeypatch.setattr(opened.language, "run", wrong)
            return opened

        monkeypatch.setattr(opened_bundle, "open_bundle", open_bundle)
        return check_tensorrt.check_rtx(bundle, Gpu()) if target else check_tensorrt.check_tensorrt(bundle)

    opened_here = opened_bundle.open_bundle
    monkeypatch.setattr(engine_from_onnx, "build_engines", build_engines)
    monkeypatch.setattr(check_tensorrt, "find_spec", lambda _: object())
    return check


@pytest.mark.parametrize("target", ["", "tensorrt-rtx"])
def test_engines_are_compared(checked, target):
    right = checked(target)
    assert right["passed"] and len(right["engine_mb"]) == 2
    assert {name for name in right if isinstance(right[name], dict) and "error" in right[name]} == {
        "vision, 1", "language, 1", "language, 64", "loop"
    }  # fmt: skip
    assert not checked(target, fault=1.0)["passed"]


def test_what_is_not_here_is_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(check_tensorrt, "find_spec", lambda _: None)
    assert "not installed" in check_tensorrt.check_rtx(tmp_path, Gpu())["left_out"]
    assert "not installed" in check_tensorrt.check_tensorrt(tmp_path)["left_out"]
    monkeypatch.setattr(check_tensorrt, "find_spec", lambda _: object())
    monkeypatch.setattr(Gpu, "capability", "87")
    assert check_tensorrt.check_rtx(tmp_path, Gpu()) == {"left_out": "TensorRT-RTX does not build for 8.7"}
