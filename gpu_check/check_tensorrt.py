"""A bundle's engines on this GPU, by TensorRT and by TensorRT-RTX, where they are installed."""

from __future__ import annotations

import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from check_onnxruntime import LIMITS, inputs_of, largest_error
from devices import Cuda, Emulated


class Silent:
    """Progress that nobody watches."""

    def phase(self, name: str) -> None:
        """Said nowhere."""

    def detail(self, text: str) -> None:
        """Said nowhere."""


def check_tensorrt(bundle: Path | None) -> dict[str, Any]:
    """Build the bundle's engines here, and compare both with ONNX Runtime on the CPU."""
    if bundle is None:
        return {"left_out": "no --bundle was given"}
    if find_spec("tensorrt") is None:
        return {"left_out": "tensorrt is not installed"}
    return _built_and_compared(bundle, "tensorrt", ())


def _built_and_compared(bundle: Path, target: str, compute_capabilities: tuple[str, ...]) -> dict[str, Any]:
    """target: of the build, and the device of that name. Errors are against ONNX Runtime on the CPU."""
    from aurora_export.export.engine_from_onnx import build_engines
    from aurora_export.runtime.opened_bundle import open_bundle

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(bundle, Path(folder) / bundle.name))
        manifest = build_engines(copy, target=target, compute_capabilities=compute_capabilities, progress=Silent())
        limit, variant = LIMITS.get(manifest.precision, max(LIMITS.values())), manifest.engines[target]
        sizes = [round(manifest.digests[path].size / 1e6, 1) for path in variant.files.values()]
        result: dict[str, Any] = {"built by": variant.builder, "engine_mb": sizes, "limit": limit}
        here, there = (open_bundle(copy, device=device, verify=False) for device in (target, "cpu"))
        for graph, length in (("vision", 1), ("language", 1), ("language", 64)):
            specs = [spec.model_dump() for spec in manifest.contract[graph].inputs]
            inputs = inputs_of(specs, {"F": 1, "B": 1, "T": length})
            actual, expected = (list(getattr(opened, graph).run(inputs).values()) for opened in (here, there))
            result[f"{graph}, {length}"] = {"error": largest_error(actual, expected, graph)}
        result["loop"] = {"error": _loop_error(here, there)}
        result["passed"] = all(entry["error"] <= limit for entry in result.values() if "error" in _dict(entry))
    return result


def _dict(entry: Any) -> dict[str, Any]:
    return entry if isinstance(entry, dict) else {}


def _loop_error(here: Any, there: Any) -> float:
    """Of the logits after a chunk and eight steps, with a state that stays where it is."""
    loops = [opened.language.open_loop() for opened in (here, there)]
    width = there.manifest.config.language.width
    rng = np.random.default_rng(3)
    for n_tokens in (92, *[1] * 8):
        rows = rng.normal(size=(n_tokens, width)).astype(np.float32)
        logits = [loop.advance(rows).copy() for loop in loops]
    return largest_error([logits[0]], [logits[1]], "language")


def check_rtx(bundle: Path | None, device: Cuda | Emulated) -> dict[str, Any]:
    """The same by TensorRT-RTX, where it builds for this GPU's compute capability."""
    if bundle is None:
        return {"left_out": "no --bundle was given"}
    if find_spec("tensorrt_rtx") is None:
        return {"left_out": "tensorrt-rtx is not installed"}
    from aurora_export.export.engine_from_onnx import RTX, RTX_CAPABILITIES

    digits = device.capability
    capability = f"{digits[:-1]}.{digits[-1]}"
    if capability not in RTX_CAPABILITIES:
        return {"left_out": f"TensorRT-RTX does not build for {capability}"}
    return _built_and_compared(bundle, RTX, (capability,))
