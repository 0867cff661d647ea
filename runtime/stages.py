"""What a session reports: counts, times of its stages, and what became of each frame."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from aurora_export.runtime.video import Frame

WATCH_STAGES = ("decode", "resize", "vision", "prefill")


@dataclass(frozen=True)
class WatchedFrame:
    """What became of one frame; arrays as the vision graph returns them, without F."""

    index: int
    time_s: float | None
    visual_tokens: np.ndarray
    token_sizes: np.ndarray
    token_of_patch: np.ndarray


@dataclass(frozen=True)
class WatchReport:
    """One call of `watch`: what went into the state, how long each stage took, and what was wrong with the video."""

    n_frames: int
    n_visual_tokens: int
    seconds: dict[str, float]
    """by WATCH_STAGES: what the session spent on each. Frames that are made ahead cost what it waited for them, which
    is in `decode`, and nothing in `resize`."""
    warnings: tuple[str, ...]


@dataclass
class Stats:
    """Everything that a session did since it was opened or forked; `reset` and `load` do not clear it."""

    n_frames: int = 0
    n_visual_tokens: int = 0
    n_text_tokens: int = 0
    n_answer_tokens: int = 0
    answer_end: Literal["stop", "length", "unfinished"] | None = None
    """Why the last answer ended: a stop id or stop text, max_tokens, or nobody asked for more of it."""
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("open", *WATCH_STAGES, "question", "answer"), 0.0)
    )


class Clock:
    """Adds the time since the last lap to a stage, in every table given."""

    def __init__(self, *tables: dict[str, float]) -> None:
        self._tables, self._last = tables, time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add what passed since the last lap."""
        now = time.perf_counter()
        for table in self._tables:
            table[stage] += now - self._last
        self._last = now


def timed(frames: Iterator[Frame], *tables: dict[str, float]) -> Iterator[Frame]:
    """The same frames; the time that each took to come is added to `decode`."""
    while True:
        clock = Clock(*tables)
        frame = next(frames, None)
        clock.lap("decode")
        if frame is None:
            return
        yield frame
