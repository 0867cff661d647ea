"""Checkpoints of a state over video time: a folder of packed `.aurstate` files beside the state; see docs/STATES.md.

Each is a whole state and depends on no other, so any can be deleted, copied or opened by itself, and a crash at any
moment leaves the others as they are. Times come from the headers; names are for people.
"""

from __future__ import annotations

import contextlib
import logging
import re
from pathlib import Path
from typing import NamedTuple

from aurora_export.errors import AuroraError, ResourceError, UsageError
from aurora_export.runtime.retention import kept_indices
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.state import STATE_SUFFIX, StateHeader, read_state_header, remove_unfinished

TIMELINE_SUFFIX = ".timeline"

_log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """A state on disk, and how far it had come."""

    path: Path
    time_s: float
    n_bytes: int
    header: StateHeader


class Timeline:
    """The checkpoints of one state. Not for several writers at once."""

    def __init__(self, folder: Path, *, budget_bytes: int | None = None) -> None:
        """folder: need not exist until something is added. budget_bytes: of all checkpoints; None keeps all."""
        self.folder = folder
        self.budget_bytes = budget_bytes
        self._known: list[Checkpoint] | None = None

    @classmethod
    def beside(cls, state: Path, *, budget_bytes: int | None = None) -> Timeline:
        """The timeline of a state file: `cam.timeline` beside `cam.aurstate`."""
        return cls(state.with_name(state.name.removesuffix(STATE_SUFFIX) + TIMELINE_SUFFIX), budget_bytes=budget_bytes)

    def checkpoints(self) -> list[Checkpoint]:
        """All, the oldest first. What cannot be read is left out with a warning."""
        if self._known is None:
            found = [self._read(path) for path in self.folder.glob(f"[!.]*{STATE_SUFFIX}")]
            self._known = sorted((entry for entry in found if entry is not None), key=lambda entry: entry.time_s)
        return self._known

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            file = read_state_header(path)
        except AuroraError as error:
            _log.warning("left out of the timeline: %s", error.message)
            return None
        if file.header.position_s is None:
            _log.warning("left out of the timeline: %s: has no time", path)
            return None
        return Checkpoint(path, file.header.position_s, file.n_bytes, file.header)

    def add(self, aurora: Aurora) -> Checkpoint:
        """Save where a session stands, then thin to the budget. Raises ResourceError (disk full) or UsageError."""
        header = aurora.header
        if header.position_s is None:
            raise UsageError(
                "a checkpoint needs a time, and the frames have none", hint="watch Frames with time_s, or a video"
            )
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(f"{self.folder}: cannot be made: {error.strerror or error}") from error
        path = self.folder / f"{_time_name(header.position_s)}{STATE_SUFFIX}"
        n_bytes = aurora.save(path, packed=True)
        checkpoint = Checkpoint(path, header.position_s, n_bytes, header)
        others = [other for other in self.checkpoints() if other.path != path]
        self._known = sorted([*others, checkpoint], key=lambda entry: entry.time_s)
        self._thin()
        return checkpoint

    def at(self, time_s: float) -> Checkpoint:
        """The last checkpoint at or before a time. Raises UsageError if there is none."""
        earlier = [entry for entry in self.checkpoints() if entry.time_s <= time_s]
        if not earlier:
            known = self.checkpoints()
            hint = f"the first one is at {known[0].time_s:g} s" if known else "make them with `ingest --every`"
            raise UsageError(f"{self.folder}: no checkpoint at or before {time_s:g} s", hint=hint)
        return earlier[-1]

    def clear(self) -> None:
        """Delete all checkpoints."""
        for checkpoint in self.checkpoints():
            checkpoint.path.unlink(missing_ok=True)
        self._known = []

    def remove_unfinished(self) -> None:
        """Delete what a killed writer left half-written."""
        for path in self.folder.glob(f".*{STATE_SUFFIX}.*.tmp"):
            remove_unfinished(path.parent / re.sub(r"^\.(.*)\.[0-9a-f]{8}\.tmp$", r"\1", path.name))

    def _thin(self) -> None:
        if self.budget_bytes is None:
            return
        known = self.checkpoints()
        keep = set(kept_indices([e.time_s for e in known], [e.n_bytes for e in known], self.budget_bytes))
        for index, checkpoint in enumerate(known):
            if index not in keep:
                with contextlib.suppress(OSError):  # one too many until the next time
                    checkpoint.path.unlink(missing_ok=True)
        self._known = [checkpoint for index, checkpoint in enumerate(known) if index in keep]


def _time_name(time_s: float) -> str:
    """0001h02m03.456s: sorts by time, and is a file name everywhere."""
    milliseconds = round(time_s * 1000)
    hours, rest = divmod(milliseconds, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    return f"{hours:04d}h{minutes:02d}m{rest // 1000:02d}.{rest % 1000:03d}s"
