"""Times of a bundle's stages on this machine, each beside what the machine can do at most.

Every row is measured `repetitions` times after one warm-up; limits are measured before and after each row, and the
higher of the two counts. Operations and bytes are those of `workload`.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS
from aurora_export.errors import UsageError
from aurora_export.runtime.engine import Loop
from aurora_export.runtime.limits import Limits, LimitsMeter
from aurora_export.runtime.opened_bundle import OpenedBundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.stages import WATCH_STAGES
from aurora_export.runtime.synthetic_clip import write_clip
from aurora_export.runtime.workload import language_operations, language_weight_bytes, vision_operations

TEXT = "A red ball rolls from the left to the right, and a blue square follows it; then both stand still. " * 200
"""What the tokenizer reads: about 20 kB."""

MOST_TOKENS = 10**6


@dataclass(frozen=True)
class Plan:
    """What to measure; 0 leaves a row out."""

    n_prompt: tuple[int, ...] = (512,)
    n_gen: tuple[int, ...] = (128,)
    depths: tuple[int, ...] = (0,)
    """Tokens that the state has seen before a prefill or a step is measured."""
    frames: tuple[int, ...] = (4,)
    """Frames of the clips that are watched from end to end."""
    repetitions: int = 5

    def __post_init__(self) -> None:
        """Raise UsageError for what cannot be measured."""
        for name in ("n_prompt", "n_gen", "depths", "frames"):
            wrong = [value for value in getattr(self, name) if not 0 <= value <= MOST_TOKENS]
            if wrong:
                raise UsageError(f"{name.replace('_', '-')} is {wrong[0]}; it must be from 0 to {MOST_TOKENS}")
        if not 1 <= self.repetitions <= MOST_TOKENS:
            raise UsageError(f"repetitions is {self.repetitions}; it must be from 1 to {MOST_TOKENS}")


@dataclass(frozen=True)
class Row:
    """One measurement. Seconds are of one unit, a token or a frame."""

    test: str
    unit: str
    n: int
    """units in one repetition"""
    depth: int
    seconds: tuple[float, ...]
    """of one unit, for each repetition"""
    limits: Limits
    operations: float = 0
    """of one unit; 0 where they are not counted"""
    read_bytes: float = 0
    stages: dict[str, float] | None = None
    """Median seconds of a frame by stage"""

    def figures(self, *, eight_bit: bool) -> dict[str, Any]:
        """The row as flat names and numbers; eight_bit: products are held against the peak of 8-bit ones."""
        median = statistics.median(self.seconds)
        peak = self.limits.int8_gop_per_s if eight_bit else self.limits.fp32_gop_per_s
        reads, done = self.read_bytes / median / 1e9, self.operations / median / 1e9
        return {
            "test": self.test,
            "unit": self.unit,
            "n": self.n,
            "depth": self.depth,
            "repetitions": len(self.seconds),
            "per_s": _short(1 / median),
            "median_ms": _short(1000 * median),
            "lowest_ms": _short(1000 * min(self.seconds)),
            "highest_ms": _short(1000 * max(self.seconds)),
            "read_gb_per_s": round(reads, 2) if reads else None,
            "share_of_reads": round(reads / self.limits.read_gb_per_s, 3) if reads else None,
            "gop_per_s": round(done, 1) if done else None,
            "share_of_peak": round(done / peak, 3) if done and peak else None,
            **{f"{stage}_ms": _short(1000 * self.stages[stage]) if self.stages else None for stage in WATCH_STAGES},
            "limit_read_gb_per_s": self.limits.read_gb_per_s,
            "limit_int8_gop_per_s": self.limits.int8_gop_per_s,
            "limit_fp32_gop_per_s": self.limits.fp32_gop_per_s,
            "limits_by": self.limits.by,
        }


def _short(value: float) -> float:
    """Four digits that matter."""
    return float(f"{value:.4g}")


def measure(
    opened: OpenedBundle, plan: Plan, *, n_threads: int, video: Path | None = None, say: Callable[[str], None]
) -> Iterator[Row]:
    """Yield the rows of a plan, as they are measured.

    n_threads: that measure the limits. video: watched instead of a clip made here, `frames` of it spread evenly.
    say: told what is being measured.  Raises UsageError or IntegrityError (video), MemoryError.
    """
    with LimitsMeter(n_threads) as meter:
        before = meter.measure()
        for name, run in _runs(opened, plan, video):
            say(name)
            run()  # warm up
            rows = [run() for _ in range(plan.repetitions)]
            after = meter.measure()
            yield _joined(rows, before.or_better(after))
            before = after


@dataclass(frozen=True)
class _Run:
    """One repetition."""

    test: str
    unit: str
    n: int
    seconds: float
    depth: int = 0
    operations: float = 0
    read_bytes: float = 0
    stages: dict[str, float] | None = None


def _joined(runs: list[_Run], limits: Limits) -> Row:
    first = runs[0]
    stages = first.stages and {
        name: statistics.median((run.stages or {})[name] / first.n for run in runs) for name in first.stages
    }
    seconds = tuple(run.seconds / first.n for run in runs)
    operations, read_bytes = first.operations / first.n, first.read_bytes / first.n
    return Row(first.test, first.unit, first.n, first.depth, seconds, limits, operations, read_bytes, stages)


def _runs(opened: OpenedBundle, plan: Plan, video: Path | None) -> Iterator[tuple[str, Callable[[], _Run]]]:
    """What is measured, in order: its name, and a function that does it once."""
    yield "tokenizer", partial(_encode, opened)
    if any(plan.frames):
        yield "vision", partial(_see, opened)
    rng = np.random.default_rng(0)
    loop = opened.language.open_loop()
    for depth in plan.depths if any(plan.n_prompt + plan.n_gen) else ():
        state = _state_at(loop, opened, depth, rng)
        for n in filter(None, plan.n_prompt):
            yield f"prefill of {n} tokens, depth {depth}", partial(_prefill, opened, loop, state, n, depth)
        for n in filter(None, plan.n_gen):
            yield f"{n} steps, depth {depth}", partial(_steps, opened, loop, state, n, depth)
    with tempfile.TemporaryDirectory(prefix="aurora-bench-") as folder:
        for n in filter(None, plan.frames):
            clip = video or write_clip(Path(folder, f"{n}.mp4"), n)
            yield f"video of {n} frames", partial(_watch, opened, clip, n, is_given=video is not None)


def _encode(opened: OpenedBundle) -> _Run:
    began = time.perf_counter()
    n_tokens = len(opened.tokenizer.encode(TEXT))
    return _Run("tokenizer", "token", n_tokens, time.perf_counter() - began)


def _see(opened: OpenedBundle) -> _Run:
    """One frame of noise: the time does not depend on what it shows."""
    side = opened.manifest.config.vision.image_size
    frame = np.random.default_rng(1).integers(0, 256, (1, side, side, 3), np.uint8)
    began = time.perf_counter()
    opened.vision.run({"frames": frame})
    seconds = time.perf_counter() - began
    return _Run("vision", "frame", 1, seconds, operations=vision_operations(opened.manifest.config))


def _embeddings(opened: OpenedBundle, n_tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of the table, shape (n_tokens, E)."""
    return opened.embed_ids(tuple(rng.integers(0, len(opened.embeddings), n_tokens).tolist()))


def _state_at(loop: Loop, opened: OpenedBundle, depth: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The state after `depth` tokens."""
    loop.write_state({name: np.zeros_like(array) for name, array in loop.read_state().items()})
    for start in range(0, depth, MAX_CHUNK_TOKENS):
        loop.advance(_embeddings(opened, min(MAX_CHUNK_TOKENS, depth - start), rng))
    return loop.read_state()


def _prefill(opened: OpenedBundle, loop: Loop, state: dict[str, np.ndarray], n_tokens: int, depth: int) -> _Run:
    loop.write_state(state)
    embeddings = _embeddings(opened, n_tokens, np.random.default_rng(2))
    starts = range(0, n_tokens, MAX_CHUNK_TOKENS)
    began = time.perf_counter()
    for start in starts:
        loop.advance(embeddings[start : start + MAX_CHUNK_TOKENS])
    seconds = time.perf_counter() - began
    operations = language_operations(opened.manifest.config, n_tokens, n_runs=len(starts))
    return _Run(f"prefill {n_tokens}", "token", n_tokens, seconds, depth, operations)


def _steps(opened: OpenedBundle, loop: Loop, state: dict[str, np.ndarray], n_tokens: int, depth: int) -> _Run:
    """Decode greedily: the likeliest token is the next input."""
    loop.write_state(state)
    token = 0
    began = time.perf_counter()
    for _ in range(n_tokens):
        token = int(loop.advance(opened.embed_ids((token,))).argmax())
    seconds = time.perf_counter() - began
    n_bytes = n_tokens * language_weight_bytes(opened.manifest)
    return _Run(f"step {n_tokens}", "token", n_tokens, seconds, depth, read_bytes=n_bytes)


def _watch(opened: OpenedBundle, clip: Path, n_frames: int, *, is_given: bool) -> _Run:
    """Decode, resize, see and read a clip; a given one may have fewer frames than were asked for."""
    aurora = Aurora(opened)
    began = time.perf_counter()
    report = aurora.watch(clip, num_frames=n_frames) if is_given else aurora.watch(clip, fps=1)
    seconds = time.perf_counter() - began
    return _Run(f"video of {report.n_frames}", "frame", report.n_frames, seconds, stages=report.seconds)
