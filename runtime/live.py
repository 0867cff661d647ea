"""Sources that do not wait: a thread reads them, a waiting frame gives way to a newer one, a lost one is sought again.

The rule, where the model is slower than the source: of the frames that are due by the sampling rate, one waits; when
the next one is due before that was taken, it takes its place, and the one that waited is counted as dropped. A source
that can wait is held up instead, and nothing is dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from aurora_export.errors import SourceError
from aurora_export.runtime.containers import ToPixels
from aurora_export.runtime.video import DEFAULT_FPS, Frame, OpenSource, at_rate, check_sampling, sampling_name

FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0
"""Between two attempts to reconnect: each waits twice as long as the one before."""

WAKE_S = 0.1
"""So often a waiting thread looks whether it should end; Ctrl-C is not late by more."""

CLOSE_S = 2.0
"""So long `close` waits for the reading thread; it may be inside a read that only its own time limit ends."""

Connection: TypeAlias = Generator[tuple[float, Any], None, None]
"""One connection's pictures, all of them, with their times in seconds: frames of PyAV, or uint8 RGB arrays. It ends
with the source; a SourceError says that the source was lost."""

_log = logging.getLogger(__name__)


@dataclass
class SourceCounts:
    """What became of a live source."""

    n_due: int = 0
    """frames that the sampling rate asked for"""
    n_dropped: int = 0
    n_connections: int = 0
    n_size_changes: int = 0


class LiveSource(OpenSource):
    """Frames of a source as they come. Its clock is that of the source; a lost connection leaves a gap on it."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Connection],
        *,
        fps: float | None = None,
        drops: bool,
        reconnect_s: float = 0.0,
    ) -> None:
        """Reading begins with the iteration.

        name: for messages. connect: called for every connection. drops: whether a waiting frame gives way to a newer
        one; otherwise the source is held up. reconnect_s: how long to try to get a lost source back, also one that
        has ended; 0 ends with it.
        """
        super().__init__()
        check_sampling(fps, None)
        self.sampling = sampling_name(fps, None)
        self.counts = SourceCounts()
        self._name, self._connect, self._drops, self._reconnect_s = name, connect, drops, reconnect_s
        self._wanted = at_rate(DEFAULT_FPS if fps is None else fps)
        self._changed = threading.Condition()
        self._waiting: tuple[float, Any] | None = None
        self._error: BaseException | None = None
        self._stopped = self._done = False
        self._clock = _SourceClock()
        self._size: tuple[int, int] | None = None
        self._is_reported = False
        self._thread = threading.Thread(target=self._read, name=f"reader of {name}", daemon=True)

    def close(self) -> None:
        """Stop reading. Waits for the reader, but not for a source that is silent."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)
        self._report()

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames until the source ends. Raises SourceError if it is lost, and what the reader found wrong."""
        to_pixels = ToPixels()
        self._thread.start()
        while (taken := self._take()) is not None:
            time_s, picture = taken
            yield Frame(picture if isinstance(picture, np.ndarray) else to_pixels(picture), time_s)
        if self._error is not None:
            raise self._error

    def _take(self) -> tuple[float, Any] | None:
        """The frame that waits, once there is one; None after the last."""
        with self._changed:
            while self._waiting is None and not self._done:
                self._changed.wait(WAKE_S)
            taken, self._waiting = self._waiting, None
            self._changed.notify_all()
        return taken

    def _offer(self, time_s: float, picture: Any) -> None:
        """Put a frame where the other side takes it."""
        self._note_size(picture)
        with self._changed:
            while self._waiting is not None and not self._drops and not self._stopped:
                self._changed.wait(WAKE_S)
            self.counts.n_due += 1
            self.counts.n_dropped += self._waiting is not None
            self._waiting = (time_s, picture)
            self._changed.notify_all()

    def _note_size(self, picture: Any) -> None:
        size = picture.shape[1::-1] if isinstance(picture, np.ndarray) else (picture.width, picture.height)
        if self._size is not None and size != self._size:
            self.counts.n_size_changes += 1
            _log.info("%s: frames are %d x %d now, they were %d x %d", self._name, *size, *self._size)
        self._size = size

    def _read(self) -> None:
        """What the thread does."""
        try:
            self._read_connections()
        except BaseException as error:  # raised again where the frames are taken
            self._error = error
        with self._changed:
            self._done = True
            self._changed.notify_all()

    def _read_connections(self) -> None:
        """One connection after the other, until the source is given up."""
        lost_at, delay_s = None, FIRST_DELAY_S
        while True:
            n_due = self.counts.n_due
            problem = self._read_one()
            if self._stopped or (problem is None and not self._reconnect_s):
                return
            if self.counts.n_due > n_due or lost_at is None:
                lost_at, delay_s = time.monotonic(), FIRST_DELAY_S
            what = "it ended" if problem is None else problem.message.removeprefix(f"{self._name}: ")
            if not self.counts.n_due and problem is not None:
                raise problem  # never there: likelier a wrong address than a bad moment
            if time.monotonic() + delay_s - lost_at > self._reconnect_s:
                waited = f", and did not come back in {self._reconnect_s:g} s" if self._reconnect_s else ""
                raise SourceError(
                    f"{self._name}: {what}{waited}", hint="what was watched is kept; `ingest --append` continues it"
                )
            _log.warning("%s: %s; connecting again in %g s", self._name, what, delay_s)
            if self._sleep(delay_s):
                return
            delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _read_one(self) -> SourceError | None:
        """Read one connection to its end; what ended it, None if it was the source."""
        self._clock.new_connection()
        try:
            with closing(self._connect()) as pictures:
                for index, (time_s, picture) in enumerate(pictures):
                    if self._stopped:
                        return None
                    self.counts.n_connections += index == 0
                    now = self._clock.moved(time_s)
                    if self._wanted(index, now):
                        self._offer(float(now), picture)
        except SourceError as error:
            return error
        return None

    def _sleep(self, seconds: float) -> bool:
        """Wait; whether reading is to stop."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stopped, seconds)

    def _report(self) -> None:
        """Say once what was not as it should be."""
        if self._is_reported:
            return
        self._is_reported = True
        counts = self.counts
        found = []
        if counts.n_dropped:
            found.append(
                f"{counts.n_dropped} of {counts.n_due} frames dropped, as they came faster than they were read"
            )
        if counts.n_connections > 1:
            found.append(f"lost and found again {counts.n_connections - 1} times")
        if counts.n_size_changes:
            found.append(f"frames changed their size {counts.n_size_changes} times")
        if found:
            self.warnings.append(f"{self._name}: {'; '.join(found)}")
            _log.warning(self.warnings[-1])

    def counts_by_name(self) -> dict[str, int]:
        """The counts, for a report."""
        return asdict(self.counts)


class _SourceClock:
    """Time since the first frame, over all connections; never backwards."""

    def __init__(self) -> None:
        self._started: float | None = None
        self._offset: Fraction | None = None
        self._last = Fraction(0)

    def new_connection(self) -> None:
        self._offset = None

    def moved(self, time_s: float) -> Fraction:
        """A time of the present connection on this clock. When a connection begins is told by the machine's clock."""
        time_of_frame = Fraction(time_s).limit_denominator(10**6)
        if self._started is None:
            self._started = time.monotonic()
        if self._offset is None:
            passed = Fraction(time.monotonic() - self._started).limit_denominator(1000)
            self._offset = max(passed if self._last else Fraction(0), self._last) - time_of_frame
        if self._offset + time_of_frame < self._last:  # its clock was set back
            self._offset = self._last - time_of_frame
        self._last = self._offset + time_of_frame
        return self._last


def as_source_error(name: str, error: BaseException) -> SourceError:
    """What went wrong with a connection, without the address, which may hold a password."""
    if type(error).__name__ == "ExitError":  # of PyAV: a read was ended by its time limit
        return SourceError(f"{name}: nothing came any more")
    return SourceError(f"{name}: {getattr(error, 'strerror', None) or type(error).__name__}")
