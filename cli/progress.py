"""How far a command is, on stderr: live where stderr is a terminal, plain lines where it is not."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

PLAIN_INTERVAL_S = 10.0
"""Between two plain lines about the same phase."""

_log = logging.getLogger("aurora_export.progress")


class Progress:
    """Phases, one after the other, each with the time that it took. A context manager."""

    def __init__(self) -> None:
        """Silent with --quiet."""
        self._phase: str | None = None
        self._started = self._last_line = time.monotonic()
        self._live = None
        if _log.isEnabledFor(logging.INFO) and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as LiveProgress
            from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(finished_text="✓"), TextColumn("{task.description}"), TimeElapsedColumn())
            self._live = LiveProgress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._finish()
        if self._live is not None:
            self._live.stop()

    def phase(self, name: str) -> None:
        """Begin a phase; the one before is finished."""
        self._finish()
        self._phase, self._started = name, time.monotonic()
        self._last_line = self._started
        if self._live is not None:
            self._task = self._live.add_task(name, total=1)

    def detail(self, text: str) -> None:
        """Say how far the phase is; cheap enough to be called often."""
        if self._live is not None:
            self._live.update(self._task, description=f"{self._phase}: {text}")
        elif time.monotonic() - self._last_line > PLAIN_INTERVAL_S:
            self._last_line = time.monotonic()
            _log.info("%s: %s, %.0f s", self._phase, text, self._last_line - self._started)

    def _finish(self) -> None:
        if self._phase is None:
            return
        if self._live is not None:
            self._live.update(self._task, completed=1)
        else:
            _log.info("%s: %.1f s", self._phase, time.monotonic() - self._started)
        self._phase = None
