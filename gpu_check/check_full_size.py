"""A full-size bundle on the GPU: vision, prefill, step and memory, beside what this GPU can do at most.

Random weights are enough: nothing here looks at an answer.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import source_tree
from devices import Cuda, Emulated

LANGUAGE, LAYOUT = "rwkv6-1b6", "released"
N_PREFILL_FRAMES, N_STEPS, N_RUNS = 48, 64, 5
MEMORY_AT_FRAMES = (8, 64, 512, 4096)
MATRIX = 8192
TARGETS = {
    "step, time over one read of the weights": ("most", 1.4),
    "prefill, share of the matrix rate": ("least", 0.4),
    "memory from the fewest to the most frames, growth": ("most", 0.01),
    "vision, frames per second over those without merging": ("least", 1.6),
}
"""Name -> which side of the number is good."""


def make_bundles(folder: Path) -> tuple[Path, Path]:
    """A full-size fp16 bundle with random weights, and one without merging; about 15 GB, and some minutes."""
    checkpoint, merged, plain = folder / "checkpoint", folder / "fp16.aurora", folder / "fp16_unmerged.aurora"
    script = str(source_tree.ROOT / "testbed/full_size.py")
    _run(script, str(checkpoint), "--layout", LAYOUT, "--language", LANGUAGE, "--dtype", "fp16")
    build = ("-m", "aurora_export", "build", str(checkpoint), "--precision", "fp16")
    _run(*build, "--out", str(merged))
    _run(*build, "--out", str(plain), "--token-kept-ratio", "1.0")
    return merged, plain


def _run(*arguments: str) -> None:
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {process.stderr[-2000:]}")


def check_full_size(
    bundles: tuple[Path, Path] | None, device: Cuda | Emulated, backend: str, *, dry_run: bool
) -> dict[str, Any]:
    """Measure a bundle, and the same one without merging. backend: as `--device` takes it.

    dry_run: few runs, whose numbers mean nothing.
    """
    if bundles is None:
        return {"left_out": "no --full-size"}
    from aurora_export.runtime.opened_bundle import open_bundle
    from aurora_export.runtime.workload import language_operations, language_weight_bytes

    few = dry_run
    reads, rate = _limits(device, dry_run=few)
    opened = open_bundle(bundles[0], device=backend, verify=False)
    manifest = opened.manifest
    result: dict[str, Any] = {
        "backend": opened.language.backend,
        "precision": manifest.precision,
        "read_gb_per_s": round(reads / 1e9, 1),
        "matrix_tflop_per_s": round(rate / 1e12, 2),
        "memory_mib": _memory_by_frames(opened, device, (2, 4) if few else MEMORY_AT_FRAMES),
    }
    n_tokens = manifest.config.tokens_per_frame
    n_frames, n_steps = (2, 2) if few else (N_PREFILL_FRAMES, N_STEPS)
    loop = opened.language.open_loop()
    rows = np.random.default_rng(0).normal(size=(n_tokens, manifest.config.language.width)).astype(np.float32)

    def prefill() -> None:
        for _ in range(n_frames):
            loop.feed(rows)
        loop.read_state()  # waits

    def step() -> None:
        for _ in range(n_steps):
            loop.advance(rows[:1])

    seconds = {"prefill": _seconds(prefill), "step": _seconds(step) / n_steps}
    operations = language_operations(manifest.config, n_frames * n_tokens, n_runs=n_frames)
    weight_bytes = language_weight_bytes(manifest)
    result["prefill"] = {"tokens": n_frames * n_tokens, "ms": round(seconds["prefill"] * 1e3, 3)}
    result["step"] = {"ms": round(seconds["step"] * 1e3, 4), "weight_mb": round(weight_bytes / 1e6, 1)}
    frames_per_s = [round(_frames_per_second(opened), 2)]
    frames_per_s.append(round(_frames_per_second(open_bundle(bundles[1], device=backend, verify=False)), 2))
    result["vision"] = dict(zip(("frames_per_s", "without_merging"), frames_per_s, strict=True))
    memory = list(result["memory_mib"].values())
    measured = (
        seconds["step"] / (weight_bytes / reads),
        operations / seconds["prefill"] / rate,
        max(memory) / memory[0] - 1 if memory[0] else 0.0,
        frames_per_s[0] / frames_per_s[1],
    )
    result["targets"] = {
        name: {side: limit, "measured": round(value, 3), "met": None if few else _is_met(side, limit, value)}
        for (name, (side, limit)), value in zip(TARGETS.items(), measured, strict=True)
    }
    return result


def _is_met(side: str, limit: float, value: float) -> bool:
    return value <= limit if side == "most" else value >= limit


def _seconds(call: Callable[[], None]) -> float:
    """The median of a few runs after one that is not counted."""
    call()
    times = []
    for _ in range(N_RUNS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _frames_per_second(opened: Any) -> float:
    side = opened.manifest.config.vision.image_size
    frame = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)
    return 1 / _seconds(lambda: opened.vision.run({"frames": frame}))


def _memory_by_frames(opened: Any, device: Cuda | Emulated, frames: tuple[int, ...]) -> dict[str, float]:
    """Frames watched -> memory of the GPU in use, by anybody, MiB."""
    config = opened.manifest.config
    rows = np.random.default_rng(2).normal(size=(config.tokens_per_frame, config.language.width)).astype(np.float32)
    loop, found, n_read = opened.language.open_loop(), {}, 0
    for n in frames:
        for _ in range(n - n_read):
            loop.feed(rows)
        loop.read_state()
        n_read = n
        found[str(n)] = round(device.used_bytes() / 2**20, 1)
    return found


def _limits(device: Cuda | Emulated, *, dry_run: bool) -> tuple[float, float]:
    """Bytes that a sum reads in a second, and operations of a product in float16."""
    n_bytes, size = (2**20, 64) if dry_run else (2**31, MATRIX)
    data = torch.zeros(n_bytes // 4, dtype=torch.float32, device=device.name)
    total = torch.empty((), dtype=torch.float32, device=device.name)
    reads = n_bytes / device.seconds(lambda: torch.sum(data, out=total, dim=0), repeats=4)
    dtype = torch.float32 if dry_run else torch.float16
    a, b = (torch.ones(size, size, dtype=dtype, device=device.name) for _ in range(2))
    product = torch.empty_like(a)
    rate = 2 * size**3 / device.seconds(lambda: torch.matmul(a, b, out=product), repeats=4)
    return reads, rate
