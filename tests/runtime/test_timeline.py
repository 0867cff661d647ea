from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys

import pytest

from aurora_export.errors import ResourceError, UsageError
from aurora_export.runtime.engine_onnx import OnnxLoop
from aurora_export.runtime.ingest import Recorder, exclusive, ingest
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.state import State, read_state_header
from aurora_export.runtime.timeline import Timeline
from aurora_export.runtime.video import Frame, Pictures


@pytest.fixture
def timeline(tmp_path):
    return Timeline(tmp_path / "cam.timeline")


def watch(aurora, frames, *times_s):
    for time_s in times_s:
        aurora.watch([Frame(frames[int(time_s) % len(frames)], float(time_s))])


def test_by_time(aurora, frames, timeline):
    for time_s in (0, 1, 5.5):
        watch(aurora, frames, time_s)
        timeline.add(aurora)
    assert [timeline.at(time_s).time_s for time_s in (0, 0.9, 1, 5, 5.5, 1e9)] == [0, 0, 1, 1, 5.5, 5.5]
    assert [entry.path.name for entry in timeline.checkpoints()] == [
        "0000h00m00.000s.aurstate",
        "0000h00m01.000s.aurstate",
        "0000h00m05.500s.aurstate",
    ]
    assert Timeline(timeline.folder).checkpoints() == timeline.checkpoints()


def test_a_checkpoint_is_a_state(aurora, frames, timeline):
    watch(aurora, frames, 0, 1)
    path = timeline.add(aurora).path
    other = aurora.fork()
    watch(aurora, frames, 2, 3)
    other.reset()
    other.load(path)
    watch(other, frames, 2, 3)
    assert other.state.digest == aurora.state.digest
    assert other.header == aurora.header


def test_names_decide_nothing(aurora, frames, timeline):
    watch(aurora, frames, 7)
    path = timeline.add(aurora).path
    path.rename(path.with_name("anything.aurstate"))
    assert Timeline(timeline.folder).at(8).time_s == 7


def test_what_is_damaged_is_left_out(aurora, frames, timeline, caplog):
    for time_s in (1, 2):
        watch(aurora, frames, time_s)
        timeline.add(aurora)
    last = timeline.at(2).path
    last.write_bytes(last.read_bytes()[:99])
    assert Timeline(timeline.folder).at(2).time_s == 1
    assert "left out of the timeline: " in caplog.text


def test_no_time_no_checkpoint(aurora, frames, timeline):
    aurora.watch(frames[:1])
    with pytest.raises(UsageError, match="a checkpoint needs a time"):
        timeline.add(aurora)


def test_nothing_there(timeline):
    with pytest.raises(UsageError, match="no checkpoint at or before 3 s"):
        timeline.at(3)


def test_budget(aurora, frames, tmp_path):
    watch(aurora, frames, 0)
    size = Timeline(tmp_path / "one").add(aurora).n_bytes
    timeline = Timeline(tmp_path / "cam.timeline", budget_bytes=int(5.5 * size))
    for time_s in range(40):
        watch(aurora, frames, time_s)
        timeline.add(aurora)
        on_disk = list(timeline.folder.iterdir())
        assert sum(path.stat().st_size for path in on_disk) <= 5.5 * size
        assert len(on_disk) == len(timeline.checkpoints())
    times = [entry.time_s for entry in timeline.checkpoints()]
    assert (times[0], times[-2:]) == (0, [38, 39])


def sources(frames, n, start=0):
    return [lambda: Pictures(Frame(frames[i % len(frames)], float(i)) for i in range(start, start + n))]


def test_a_full_disk_ends_it_and_loses_nothing(aurora, frames, tmp_path, monkeypatch):
    """The third save fails; state and checkpoint of the second are as they were."""
    path = tmp_path / "cam.aurstate"
    timeline = Timeline.beside(path)
    n_calls = 0

    def full(_descriptor):
        nonlocal n_calls
        n_calls += 1
        if n_calls > 4:  # two saves of two files each
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        ingest(aurora, sources(frames, 100), Recorder(aurora, path, every_s=10, timeline=timeline))
    assert caught.value.message == f"{path}: the disk is full"
    assert read_state_header(path).header.position_s == 20
    assert [entry.time_s for entry in Timeline.beside(path).checkpoints()] == [10, 20]
    assert sorted(os.listdir(tmp_path)) == ["cam.aurstate", "cam.timeline"]
    assert len(os.listdir(timeline.folder)) == 2


def test_a_period_of_nothing(aurora, tmp_path, timeline):
    with pytest.raises(UsageError, match="the period must be over 0"):
        Recorder(aurora, tmp_path / "x", every_s=0, timeline=timeline)


KILLED = """
import sys
import numpy as np
from pathlib import Path
from aurora_export.runtime.ingest import Recorder, exclusive, ingest
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.timeline import Timeline
from aurora_export.runtime.video import Frame, Pictures

bundle, path = sys.argv[1], Path(sys.argv[2])
def frames(start):
    for i in range(start, 100_000):
        yield Frame(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8), float(i))
with exclusive(path), Aurora.open(bundle, threads=1, verify=False) as aurora:
    if path.exists():
        aurora.load(path)
    start = aurora.header.frames_seen
    recorder = Recorder(aurora, path, every_s=20, timeline=Timeline.beside(path, budget_bytes=9_000))
    ingest(aurora, [lambda: Pictures(frames(start))], recorder,
           on_frame=lambda _: print(aurora.header.frames_seen, flush=True))
"""


def test_killed_at_any_time(bundle, tmp_path):
    """kill -9, again and again: at most one period is lost, every file is whole, and the next run goes on from it."""
    path = tmp_path / "cam.aurstate"
    rng = random.Random(0)
    for _ in range(6):
        seen = killed_after(bundle, path, rng.randint(30, 400) + (saved_frames(path)))
        assert seen - saved_frames(path) <= 21
        checkpoints = Timeline.beside(path).checkpoints()
        assert checkpoints[-1].header.frames_seen >= seen - 2 * 21
        with Aurora.open(bundle, threads=1, verify=False) as aurora:
            for whole in (path, *(entry.path for entry in checkpoints)):
                aurora.load(whole)
    with exclusive(path):
        left = [name for name in os.listdir(tmp_path) if not name.endswith(".lock")]
    assert sorted(left) == ["cam.aurstate", "cam.timeline"]
    assert not [name for name in os.listdir(tmp_path / "cam.timeline") if name.startswith(".")]
    assert uninterrupted(bundle, saved_frames(path)) == loaded(bundle, path).digest


def killed_after(bundle, path, n_frames) -> int:
    """Frames that a writer had seen when it was killed, which is about when it had seen n_frames."""
    command = [sys.executable, "-c", KILLED, str(bundle), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        seen = 0
        for line in process.stdout:
            seen = int(line)
            if seen >= n_frames and process.poll() is None:
                process.kill()
                rest = process.stdout.read().split("\n")
                seen = int(rest[-2]) if len(rest) > 1 else seen
                break
    assert seen >= n_frames
    return seen


def saved_frames(path) -> int:
    return read_state_header(path).header.frames_seen if path.exists() else 0


def loaded(bundle, path) -> State:
    with Aurora.open(bundle, threads=1, verify=False) as aurora:
        return State.load(path, aurora.manifest.config, fingerprint=aurora.manifest.fingerprint)


def uninterrupted(bundle, n_frames) -> str:
    import numpy as np

    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(
            Frame(np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8), float(i))
            for i in range(n_frames)
        )
        return aurora.state.digest


def test_ctrl_c_waits_for_the_frame(bundle, frames, tmp_path, monkeypatch):
    """It comes while a frame is being read: state and header must not tell two stories."""
    advance = OnnxLoop.advance

    def interrupted(self, embeddings):
        logits = advance(self, embeddings)
        if aurora.header.frames_seen == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return logits

    path = tmp_path / "cam.aurstate"
    with Aurora.open(bundle, threads=1) as aurora:
        recorder = Recorder(aurora, path, every_s=None, timeline=Timeline.beside(path))
        monkeypatch.setattr(OnnxLoop, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ingest(aurora, sources(frames, 100), recorder)
    assert saved_frames(path) == 4
    with Aurora.open(bundle, threads=1) as other:
        other.watch(Frame(frames[i], float(i)) for i in range(4))
        assert loaded(bundle, path).digest == other.state.digest
