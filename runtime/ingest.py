"""Footage into a state that is kept: videos one after the other, on one clock, saved on the way.

What ends the watching, a bad file, Ctrl-C or a kill, what was watched until the last save is on disk, whole.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from aurora_export.errors import UsageError
from aurora_export.runtime.live import LiveSource
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.stages import WATCH_STAGES, WatchedFrame
from aurora_export.runtime.state import StateHeader, remove_unfinished
from aurora_export.runtime.timeline import Timeline
from aurora_export.runtime.video import Frame, OpenSource
from aurora_export.runtime.writer_lock import locked


@dataclass
class IngestReport:
    """What was watched by one `ingest`, all its sources together."""

    n_frames: int = 0
    n_visual_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WATCH_STAGES, 0.0))
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """of live sources: see `live.SourceCounts`"""

    def add(self, source: OpenSource) -> None:
        """Take over what a source says of itself once it was closed."""
        self.warnings += source.warnings
        if isinstance(source, LiveSource):
            for name, count in source.counts_by_name().items():
                self.counts[name] = self.counts.get(name, 0) + count


class Recorder:
    """Keeps a session on disk: in one file, and in a timeline at each full period of video time.

    The file is written first: a timeline is never ahead of its state.
    """

    def __init__(
        self, aurora: Aurora, path: Path, *, every_s: float | None, timeline: Timeline, is_new: bool = False
    ) -> None:
        """every_s: seconds of video between two saves; None saves when it is told to.

        is_new: what the timeline holds belongs to a state that is being replaced, and goes with the first save.
        """
        if every_s is not None and not every_s > 0:
            raise UsageError(f"a checkpoint every {every_s:g} s; the period must be over 0")
        self.aurora, self.path = aurora, path
        self._every_s, self._timeline, self._is_new = every_s, timeline, is_new
        self._period = self._period_of(aurora.header.position_s)
        self._n_at_start = aurora.header.frames_seen
        self.n_checkpoints = 0
        self.saved: StateHeader | None = None
        """The state as it was saved last, by this recorder."""

    @property
    def has_unsaved(self) -> bool:
        """Whether frames were watched since the last save."""
        return self.aurora.header.frames_seen > (self.saved.frames_seen if self.saved else self._n_at_start)

    def after_frame(self) -> None:
        """Save if this was the first frame of a new period. Raises ResourceError or UsageError."""
        period = self._period_of(self.aurora.header.position_s)
        if period > self._period:
            self._period = period
            self.save()
            self._timeline.add(self.aurora)
            self.n_checkpoints += 1

    def save(self) -> None:
        """Write the file. Raises ResourceError or UsageError; the one that was there before is then still there."""
        self.aurora.save(self.path)
        self.saved = self.aurora.header
        if self._is_new:
            self._timeline.clear()
            self._is_new = False

    def _period_of(self, position_s: float | None) -> int:
        return int(position_s // self._every_s) if self._every_s is not None and position_s is not None else 0


def ingest(
    aurora: Aurora,
    sources: Iterable[Callable[[], OpenSource]],
    recorder: Recorder,
    *,
    step_s: float = 1.0,
    duration_s: float | None = None,
    prompt: str | None = None,
    on_frame: Callable[[WatchedFrame], None] | None = None,
) -> IngestReport:
    """Watch sources one after the other, as one video, and save on the way and at the end, whatever the end is.

    sources: each is opened when its turn comes. step_s: time between the last frame so far and the first of the next
    source. duration_s: how much of each source is watched, at most. prompt: see `Aurora.watch`. on_frame: called after
    each frame is in the state.
    Raises what opening, watching and saving raise, after what was watched has been saved.
    """
    report = IngestReport()
    deferred = _DeferredSignals()

    def after_frame(watched: WatchedFrame) -> None:
        report.n_frames += 1
        report.n_visual_tokens += len(watched.visual_tokens)
        recorder.after_frame()
        if on_frame is not None:
            on_frame(watched)

    try:
        with deferred:
            for open_next in sources:
                with open_next() as source:
                    continued = _Continued(source, _start_s(aurora, step_s), duration_s, deferred)
                    part = aurora.watch(continued, prompt=prompt, on_frame=after_frame)
                prompt = None
                report.add(source)
                for stage, seconds in part.seconds.items():
                    report.seconds[stage] += seconds
    finally:
        if recorder.has_unsaved:
            recorder.save()
    return report


@contextlib.contextmanager
def exclusive(state: Path) -> Iterator[None]:
    """Be the only writer of a state file and its timeline; what a killed one left half-written is removed.

    Raises UsageError if another process writes it, or if it cannot be written.
    """
    with locked(state):
        remove_unfinished(state)
        Timeline.beside(state).remove_unfinished()
        yield


def _start_s(aurora: Aurora, step_s: float) -> float:
    """When the next footage begins."""
    header = aurora.header
    return 0.0 if not header.frames_seen or header.position_s is None else header.position_s + step_s


class _Continued(OpenSource):
    """A source on the clock of the state: its first frame is at `start_s`."""

    def __init__(self, source: OpenSource, start_s: float, duration_s: float | None, signals: _DeferredSignals) -> None:
        super().__init__()
        self.sampling = source.sampling
        self.warnings = source.warnings
        self._source, self._start_s, self._duration_s, self._signals = source, start_s, duration_s, signals

    def read_ahead(self, n: int, prepare: Callable[[np.ndarray], np.ndarray]) -> bool:
        """See `OpenSource.read_ahead`."""
        return self._source.read_ahead(n, prepare)

    def __iter__(self) -> Iterator[Frame]:
        first_s = None
        for pixels, time_s in self._source:
            if time_s is None:
                moved = None
            else:
                first_s = time_s if first_s is None else first_s
                if self._duration_s is not None and time_s - first_s >= self._duration_s:
                    return
                moved = round(self._start_s + time_s - first_s, 6)
            with self._signals.held_back():
                yield Frame(pixels, moved)


class _DeferredSignals:
    """Ctrl-C and termination wait until a frame is wholly in the state; while none is being read they act at once."""

    def __init__(self) -> None:
        self._busy = self._pending = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        with contextlib.suppress(ValueError):  # not the main thread: signals go elsewhere
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Nothing interrupts inside; what came is raised on the way out."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if not self._busy:
            raise KeyboardInterrupt
        self._pending = True
