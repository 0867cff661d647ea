"""Frames that are made ahead change nothing but the time: same states, same errors, and no thread left behind."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from aurora_export.contract import STATE_NAMES
from aurora_export.errors import IntegrityError, UsageError
from aurora_export.plugins.cpu import library_path
from aurora_export.runtime import opened_bundle, seeing, video
from aurora_export.runtime.device import parse_device
from aurora_export.runtime.engine_onnx import OnnxEngine, OnnxLoop
from aurora_export.runtime.ingest import Recorder, ingest
from aurora_export.runtime.live import LiveSource
from aurora_export.runtime.opened_bundle import OpenedBundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.timeline import Timeline
from aurora_export.runtime.video import Pictures, open_video


def decoders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decoder of")]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert not decoders()


@pytest.fixture
def clip(make_video):
    return make_video("clip.mp4", 25)


@pytest.fixture(params=[0, 1, 2, 64])
def any_ahead(bundle, request):
    with Aurora.open(bundle, threads=2, n_ahead=request.param) as session:
        yield session


@pytest.fixture
def ahead(bundle):
    with Aurora.open(bundle, threads=2, n_ahead=2) as session:
        yield session


@pytest.fixture
def sequential(bundle):
    with Aurora.open(bundle, threads=2, n_ahead=0) as session:
        yield session


def same_state(left, right):
    return all(np.array_equal(left.state.arrays[name], right.state.arrays[name]) for name in STATE_NAMES)


def test_the_state_is_that_of_the_sequential_loop_bit_for_bit(any_ahead, sequential, clip):
    frames = [[], []]
    reports = [
        session.watch(clip, fps=10, on_frame=seen.append)
        for session, seen in zip((any_ahead, sequential), frames, strict=True)
    ]
    assert same_state(any_ahead, sequential)
    assert any_ahead.header == sequential.header
    assert [report.n_frames for report in reports] == [25, 25]
    for ours, theirs in zip(*frames, strict=True):
        assert (ours.index, ours.time_s) == (theirs.index, theirs.time_s)
        np.testing.assert_array_equal(ours.visual_tokens, theirs.visual_tokens)


@pytest.fixture
def runs(monkeypatch):
    """The embeddings of each run of a language graph."""
    runs = []
    feed = OnnxLoop.feed
    monkeypatch.setattr(OnnxLoop, "feed", lambda self, rows: runs.append(rows.copy()) or feed(self, rows))
    return runs


@pytest.fixture
def joining(bundle, monkeypatch):
    """Reads frames together, though the state of the handmade graph depends on how its tokens are divided into runs."""
    with Aurora.open(bundle, threads=2, n_ahead=2) as session:
        assert not session._model.joins_runs
        session._open = (dataclasses.replace(session._model, joins_runs=True), session._loop)
        yield session


@pytest.mark.parametrize("prompt", [None, "What colour is the square?"])
@pytest.mark.parametrize("n_frames", [0, 1, 3, 7])
def test_frames_read_together_are_the_same_tokens_in_fewer_runs(
    joining, sequential, clip, monkeypatch, runs, n_frames, prompt
):
    sequential.watch(clip, fps=10, prompt=prompt)
    alone = runs.copy()
    runs.clear()
    room = n_frames * len(alone[-1])
    monkeypatch.setattr(seeing, "MAX_CHUNK_TOKENS", room)
    report = joining.watch(clip, fps=10, prompt=prompt)
    np.testing.assert_array_equal(np.concatenate(runs), np.concatenate(alone))
    assert len(alone) == 25
    assert [len(run) for run in runs] == joined([len(run) for run in alone], room)
    assert joining.header == sequential.header
    for name in ("n_frames", "n_visual_tokens", "n_text_tokens"):
        assert getattr(joining.stats, name) == getattr(sequential.stats, name)
    assert report.n_visual_tokens == joining.stats.n_visual_tokens


def joined(lengths, room):
    """Each run as long as one more frame fits."""
    runs, current = [], 0
    for length in lengths:
        current += length
        if current + length > room:
            runs.append(current)
            current = 0
    return runs + [current] * (current > 0)


@pytest.mark.skipif(library_path() is None, reason="the operator library was not built")
@pytest.mark.parametrize(
    ("precision", "n_tokens", "device", "joins"),
    [
        ("int8", 2, "cpu", True),
        ("int4", 92, "cpu", True),
        ("int8", 1, "cpu", False),  # a run of one token rounds otherwise
        ("fp32", 92, "cpu", False),
        ("int8-qdq", 92, "cpu", False),
        ("int8", 92, "cuda", False),
    ],
)
def test_frames_are_read_together_only_where_that_gives_the_same_bits(precision, n_tokens, device, joins):
    manifest = SimpleNamespace(precision=precision, config=SimpleNamespace(tokens_per_frame=n_tokens))
    assert opened_bundle._joins_runs(manifest, parse_device(device)) is joins


def test_who_asks_for_each_frame_gets_it_before_the_next_is_read(ahead, clip):
    def exactly(frame):
        assert ahead.header.frames_seen == frame.index + 1

    ahead.watch(clip, fps=10, on_frame=exactly)


def test_frames_read_together_are_told_of_in_order_once_they_are_in_the_state(joining, sequential, clip):
    told = []

    def after_frame(frame):
        assert joining.header.frames_seen > frame.index
        told.append(frame)

    joining.watch(clip, fps=10, on_frame=after_frame, together=True)
    expected = []
    sequential.watch(clip, fps=10, on_frame=expected.append)
    assert [frame.index for frame in told] == list(range(25))
    for ours, theirs in zip(told, expected, strict=True):
        np.testing.assert_array_equal(ours.visual_tokens, theirs.visual_tokens)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), IntegrityError("fifth frame")])
def test_frames_that_wait_for_each_other_are_not_lost_with_an_error(joining, clip, monkeypatch, runs, error):
    monkeypatch.setattr(video.Video, "_decoded", broken_after(4, error))
    with pytest.raises(type(error)):
        joining.watch(clip, fps=10)
    assert joining.header.frames_seen == 4
    assert [len(run) for run in runs] == [joining.header.tokens_seen]


def test_a_run_that_fails_leaves_the_state_before_it(joining, clip, monkeypatch):
    def fails(self, rows):
        raise MemoryError

    monkeypatch.setattr(OnnxLoop, "feed", fails)
    with pytest.raises(MemoryError):
        joining.watch(clip, fps=10)
    assert joining.phase == "empty"


def test_a_damaged_video_is_used_as_far_as_it_goes_and_warned_of(any_ahead, sequential, make_video, tmp_path):
    cut = tmp_path / "cut.mkv"
    whole = make_video("whole.mkv", 60, size=(320, 240)).read_bytes()
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    reports = [session.watch(cut, fps=10) for session in (any_ahead, sequential)]
    assert reports[0].warnings == reports[1].warnings != ()
    assert same_state(any_ahead, sequential)


def broken_after(n_frames, error):
    """In the place of `Video._decoded`."""
    decoded = video.Video._decoded

    def broken(self):
        for index, frame in enumerate(decoded(self)):
            if index == n_frames:
                raise error
            yield frame

    return broken


def test_an_error_of_the_decoder_comes_after_the_frames_before_it(any_ahead, clip, monkeypatch):
    monkeypatch.setattr(video.Video, "_decoded", broken_after(4, IntegrityError("fifth frame")))
    seen = []
    with pytest.raises(IntegrityError, match="fifth frame"):
        any_ahead.watch(clip, fps=10, on_frame=seen.append)
    assert len(seen) == any_ahead.header.frames_seen == 4


@pytest.mark.parametrize("error", [KeyboardInterrupt(), LookupError("of the caller")])
def test_what_the_caller_raises_ends_it_and_the_state_holds_whole_frames(any_ahead, bundle, clip, error):
    def third(frame):
        if frame.index == 2:
            raise error

    with pytest.raises(type(error)):
        any_ahead.watch(clip, fps=10, on_frame=third)
    assert any_ahead.header.frames_seen == 3
    assert not decoders()
    with Aurora.open(bundle, threads=2, n_ahead=0) as other:
        with open_video(clip, fps=10) as whole:
            other.watch([picture.pixels for picture in list(whole)[:3]])
        assert same_state(any_ahead, other)


def test_the_error_of_vision_is_the_one_reported_even_if_the_decoder_fails_later(ahead, clip, monkeypatch):
    monkeypatch.setattr(video.Video, "_decoded", broken_after(3, IntegrityError("of the decoder")))
    run = OnnxEngine.run
    calls = []

    def fails(self, inputs):
        if "frames" in inputs:
            calls.append(1)
            if len(calls) == 2:
                time.sleep(0.1)  # the decoder has failed by now
                raise LookupError("of vision")
        return run(self, inputs)

    monkeypatch.setattr(OnnxEngine, "run", fails)
    with pytest.raises(LookupError, match="of vision"):
        ahead.watch(clip, fps=10)
    assert ahead.header.frames_seen == 1


def test_no_more_frames_are_made_than_asked_for(ahead, clip, monkeypatch):
    made = []
    resize = OpenedBundle.resize
    monkeypatch.setattr(OpenedBundle, "resize", lambda self, pixels: made.append(1) or resize(self, pixels))

    def slowly(frame):
        time.sleep(0.02)
        assert len(made) <= frame.index + 1 + 2

    ahead.watch(clip, fps=10, on_frame=slowly)
    assert len(made) == 25


def test_only_files_are_read_ahead(clip):
    assert Pictures([]).read_ahead(2, np.asarray) is False
    live = LiveSource("cam", lambda: iter(()), drops=True)
    assert live.read_ahead(2, np.asarray) is False
    with open_video(clip) as frames:
        assert frames.read_ahead(2, np.asarray) is True


def test_a_pipe_is_not_read_ahead(tmp_path, make_video):
    """A read of it may wait for ever, and a thread cannot be told to stop."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = make_video("three.gif", 3, codec="gif", pixel_format="rgb8")
    writer = threading.Thread(target=lambda: pipe.write_bytes(data.read_bytes()))
    writer.start()
    with open_video(pipe, fps=10) as frames:
        assert frames.read_ahead(2, np.asarray) is False
        assert len(list(frames)) == 3
    writer.join()


def test_pictures_of_a_caller_are_taken_one_by_one(ahead, frames):
    """A generator may look at the session, or wait for what comes of a frame."""
    given = []

    def generated():
        for index, picture in enumerate(frames):
            assert ahead.header.frames_seen == index
            given.append(threading.current_thread())
            yield picture

    ahead.watch(generated())
    assert set(given) == {threading.current_thread()}


def test_an_open_video_that_is_left_alone_ends_its_thread(clip):
    frames = open_video(clip, fps=10)
    frames.read_ahead(2, np.asarray)
    first = next(iter(frames))
    assert first.time_s == 0
    frames.close()
    assert not decoders()


def test_ingest_reads_ahead_and_saves_what_is_whole(ahead, sequential, clip, tmp_path):
    for session, name in ((ahead, "a"), (sequential, "b")):
        path = tmp_path / f"{name}.aurstate"
        recorder = Recorder(session, path, every_s=0.5, timeline=Timeline.beside(path, budget_bytes=10**9))
        ingest(session, [lambda: open_video(clip, fps=10)] * 2, recorder)
    times = [[c.time_s for c in Timeline.beside(tmp_path / f"{name}.aurstate").checkpoints()] for name in "ab"]
    assert times[0] == times[1] != []
    assert same_state(ahead, sequential)
    assert ahead.header == sequential.header


def test_ctrl_c_while_ingesting(ahead, clip, tmp_path):
    path = tmp_path / "c.aurstate"
    recorder = Recorder(ahead, path, every_s=None, timeline=Timeline.beside(path))

    def third(frame):
        if frame.index == 2:
            os.kill(os.getpid(), 2)

    with pytest.raises(KeyboardInterrupt):
        ingest(ahead, [lambda: open_video(clip, fps=10)], recorder, on_frame=third)
    assert not decoders()
    assert recorder.saved is not None and recorder.saved.frames_seen == 3


def test_ctrl_c_while_the_decoder_is_waited_for(ahead, clip, tmp_path, monkeypatch):
    decoded = video.Video._decoded
    reached = threading.Event()

    def slow(self):
        for index, frame in enumerate(decoded(self)):
            if index == 2:
                reached.set()
                time.sleep(0.3)
            yield frame

    def interrupt():
        reached.wait(5)
        time.sleep(0.1)
        os.kill(os.getpid(), 2)

    monkeypatch.setattr(video.Video, "_decoded", slow)
    path = tmp_path / "d.aurstate"
    recorder = Recorder(ahead, path, every_s=None, timeline=Timeline.beside(path))
    killer = threading.Thread(target=interrupt)
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        ingest(ahead, [lambda: open_video(clip, fps=10)], recorder)
    killer.join()
    assert not decoders()
    assert recorder.saved is not None and recorder.saved.frames_seen == 2


@pytest.mark.parametrize(("threads", "expected"), [(1, 0), (2, 2)])
def test_it_is_chosen_by_the_threads(bundle, threads, expected):
    with Aurora.open(bundle, threads=threads) as session:
        assert session._model.n_ahead == expected


@pytest.mark.parametrize("n", [-1, 65])
def test_how_far_ahead_it_may_be(bundle, n):
    with pytest.raises(UsageError, match="0 to 64"):
        Aurora.open(bundle, n_ahead=n)
