"""The rules of live sources, on connections that are played from lists."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from aurora_export.errors import IntegrityError, SourceError, UsageError
from aurora_export.runtime import live
from aurora_export.runtime.live import LiveSource

SMALL, LARGE = (np.zeros((4, 4, 3), np.uint8), np.zeros((6, 8, 3), np.uint8))


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(live, "FIRST_DELAY_S", 0.02)


def played(*connections):
    """One connection after the other: times of its frames, and errors to raise; then there is no source any more."""
    left = list(connections)

    def connect():
        for item in left.pop(0) if left else [SourceError("cam: no route to it")]:
            if isinstance(item, Exception):
                raise item
            yield item if isinstance(item, tuple) else (item, SMALL)

    return connect


def source(*connections, drops=False, fps=1, **options):
    return LiveSource("cam", played(*connections), fps=fps, drops=drops, **options)


def times(frames):
    return [frame.time_s for frame in frames]


def watched_until_lost(frames) -> tuple[list[float], SourceError]:
    seen = []
    try:
        for frame in frames:
            seen.append(frame.time_s)
    except SourceError as error:
        return seen, error
    raise AssertionError("it was not lost")


def test_the_sampling_rate_is_that_of_files():
    with source([i / 4 for i in range(20)]) as frames:
        assert times(frames) == [0, 1, 2, 3, 4]
    assert frames.sampling == "1 fps"
    assert (frames.counts.n_due, frames.counts.n_dropped) == (5, 0)
    assert frames.warnings == []


def test_time_begins_with_the_first_frame():
    with source([1000.5, 1001.5, 1003]) as frames:
        assert times(frames) == [0, 1, 2.5]


def test_a_source_that_waits_loses_nothing():
    with source(range(30)) as frames:
        seen = []
        for frame in frames:
            time.sleep(0.002)
            seen.append(frame.time_s)
    assert seen == list(range(30))
    assert frames.counts.n_dropped == 0


def test_the_newest_frame_waits_and_drops_are_counted():
    """The model is held in its first frame until the source has sent ten; it goes on with the newest."""
    sent = threading.Event()

    def connect():
        for i in range(10):
            yield float(i), SMALL
            if i == 0:
                while frames._waiting is not None:
                    time.sleep(0.001)
        sent.set()
        done.wait(5)
        yield 10.0, SMALL

    done = threading.Event()
    frames = LiveSource("cam", connect, drops=True)
    with frames:
        taken = iter(frames)
        seen = [next(taken).time_s]
        assert sent.wait(5)
        seen.append(next(taken).time_s)
        done.set()
        seen += times(taken)
    assert seen == [0, 9, 10]
    assert (frames.counts.n_due, frames.counts.n_dropped) == (11, 8)
    assert frames.warnings == ["cam: 8 of 11 frames dropped, as they came faster than they were read"]


def test_a_lost_source_is_sought_again(caplog):
    with source([0, 1, SourceError("cam: broken pipe")], [500, 501], reconnect_s=0.3) as frames:
        seen, error = watched_until_lost(frames)
    assert len(seen) in (3, 4), "the second connection begins where the machine's clock is"
    assert error.message == "cam: no route to it, and did not come back in 0.3 s"
    assert error.hint == "what was watched is kept; `ingest --append` continues it"
    assert frames.counts.n_connections == 2
    assert "cam: broken pipe; connecting again in 0.02 s" in caplog.text
    waits = [line.rpartition(" in ")[2] for line in caplog.text.splitlines() if "connecting again" in line]
    assert waits[1:5] == ["0.02 s", "0.04 s", "0.08 s", "0.16 s"][: len(waits) - 1], "doubled, anew after each success"
    assert frames.warnings == ["cam: lost and found again 1 times"]


def test_what_came_before_the_loss_is_watched():
    with source([0, 1, 2, SourceError("cam: broken pipe")]) as frames:
        seen, error = watched_until_lost(frames)
    assert (seen, error.message) == ([0, 1, 2], "cam: broken pipe")


def test_the_gap_of_a_lost_connection_is_on_the_clock():
    with source([0, 0.05, SourceError("cam: gone")], [77, 77.5], fps=1000, reconnect_s=0.1) as frames:
        seen, _ = watched_until_lost(frames)
    assert seen[:2] == [0, 0.05]
    # Of 77 and 77.5 the first is seen too where the reader is quicker than the source.
    assert 0.05 < seen[2] < 5, "by the machine's clock, not by that of the source"


def test_never_there_is_an_error_at_once():
    started = time.monotonic()
    with source(reconnect_s=60) as frames, pytest.raises(SourceError, match=r"^cam: no route to it$"):
        list(frames)
    assert time.monotonic() - started < 5


def test_an_end_is_an_end_unless_it_may_come_back():
    with source([0, 1]) as frames:
        assert times(frames) == [0, 1]
    with source([0, 1], reconnect_s=0.05) as frames, pytest.raises(SourceError, match=r"did not come back in 0\.05 s"):
        list(frames)


def test_sizes_may_change():
    with source([(0, SMALL), (1, LARGE), (2, LARGE), (3, SMALL)]) as frames:
        assert [frame.pixels.shape for frame in frames] == [(4, 4, 3), (6, 8, 3), (6, 8, 3), (4, 4, 3)]
    assert frames.counts.n_size_changes == 2
    assert frames.warnings == ["cam: frames changed their size 2 times"]


def test_a_clock_that_is_set_back_never_goes_backwards():
    with source([0, 1, 2, 0.5, 1.5, 2.5]) as frames:
        seen = times(frames)
    assert seen == [0, 1, 2, 3, 4]


def test_what_the_reader_finds_wrong_is_raised_here():
    with source([0, IntegrityError("cam: no video")], reconnect_s=9) as frames:
        taken = iter(frames)
        assert next(taken).time_s == 0
        with pytest.raises(IntegrityError, match="cam: no video"):
            next(taken)


def test_closing_ends_the_reader():
    def endless():
        i = 0
        while True:
            yield float(i), SMALL
            i += 1

    for drops in (True, False):
        frames = LiveSource("cam", endless, drops=drops)
        with frames:
            next(iter(frames))
        assert not frames._thread.is_alive()
    frames.close()


def test_closing_while_it_waits_to_reconnect(monkeypatch):
    monkeypatch.setattr(live, "FIRST_DELAY_S", 30.0)
    with source([0], reconnect_s=99) as frames:
        next(iter(frames))
        time.sleep(0.05)
    assert not frames._thread.is_alive()


def test_bad_rates():
    with pytest.raises(UsageError, match="fps is 0"):
        source(fps=0)
