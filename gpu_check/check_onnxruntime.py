"""A bundle's graphs in ONNX Runtime on the GPU, against the same on the CPU, which runs WKV as the graph's function."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

LIMITS = {"fp32": 1e-3, "fp16": 5e-2, "int8": 5e-2}
"""Precision -> largest error over the largest element. A GPU sums in another order, and computes fp16 as such."""

PROVIDER = "CUDAExecutionProvider"
OPTIONS = {"use_tf32": "0"}
N_TOKENS = (1, 64)
N_RUNS = 5


def check_onnxruntime(bundle: Path | None, operators: Path | None = None, *, dry_run: bool) -> dict[str, Any]:
    """Run both graphs on random inputs; what is left out, and why, if something is missing.

    operators: the library of ours, for the CUDA provider; without it WKV is the graph's function there too.
    dry_run: the CPU takes the place of the GPU too.
    """
    if bundle is None:
        return {"left_out": "no --bundle was given"}
    try:
        import onnxruntime
    except ImportError:
        return {"left_out": "onnxruntime is not installed"}
    if PROVIDER not in onnxruntime.get_available_providers() and not dry_run:
        return {"left_out": f"onnxruntime {onnxruntime.__version__} has no {PROVIDER}: onnxruntime-gpu has"}
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    limit = LIMITS.get(manifest["precision"], max(LIMITS.values()))
    result: dict[str, Any] = {"version": onnxruntime.__version__, "precision": manifest["precision"], "limit": limit}
    result["operators"] = "ours" if operators is not None else "functions"
    providers = ["CPUExecutionProvider"] if dry_run else [(PROVIDER, OPTIONS), "CPUExecutionProvider"]
    for name, lengths in (("vision", (1,)), ("language", N_TOKENS)):
        path = str(bundle / manifest["files"][name])
        on_cpu = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        options = onnxruntime.SessionOptions()
        if operators is not None:
            options.register_custom_ops_library(str(operators))
        on_gpu = onnxruntime.InferenceSession(path, options, providers=providers)
        if not dry_run and PROVIDER not in on_gpu.get_providers():
            return {**result, "passed": False, "error": f"{PROVIDER} was asked for and is not used"}
        for length in lengths:
            inputs = inputs_of(manifest["contract"][name]["inputs"], {"F": 1, "B": 1, "T": length})
            seconds = _seconds(on_gpu, inputs)
            result[f"{name}, {length}"] = {
                "error": largest_error(on_gpu.run(None, inputs), on_cpu.run(None, inputs), name),
                "ms": round(seconds * 1e3, 3),
            }
    result["passed"] = all(entry["error"] <= limit for entry in result.values() if isinstance(entry, dict))
    return result


def inputs_of(specs: list[dict[str, Any]], sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Random pictures or embeddings, and a state of zeros."""
    rng = np.random.default_rng()
    arrays = {}
    for spec in specs:
        shape = [sizes.get(entry, entry) for entry in spec["shape"]]
        if spec["dtype"] == "uint8":
            arrays[spec["name"]] = rng.integers(0, 256, shape).astype(np.uint8)
        elif spec["name"] == "embeddings":
            arrays[spec["name"]] = rng.normal(size=shape).astype(spec["dtype"])
        else:
            arrays[spec["name"]] = np.zeros(shape, spec["dtype"])
    return arrays


def largest_error(actual: list[np.ndarray], expected: list[np.ndarray], graph: str) -> float:
    """The largest error of any output over its largest element.

    Of vision the mean over its tokens only: one merge that goes the other way moves all tokens after it.
    """
    pairs = [(actual[0].mean(1), expected[0].mean(1))] if graph == "vision" else zip(actual, expected, strict=True)
    found = [np.abs(x.astype(float) - y).max() / max(np.abs(y).max(), 1e-30) for x, y in pairs]
    return float(max(found)) if np.isfinite(found).all() else float("inf")


def _seconds(session: Any, inputs: dict[str, np.ndarray]) -> float:
    """The best of a few runs, copies to and from the device included."""
    times = []
    for _ in range(N_RUNS):
        began = time.perf_counter()
        session.run(None, inputs)
        times.append(time.perf_counter() - began)
    return min(times)
