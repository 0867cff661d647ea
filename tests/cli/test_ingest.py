from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from itertools import islice

import pytest

from aurora_export.runtime.session import Aurora
from aurora_export.runtime.state import State, read_state_header
from aurora_export.runtime.timeline import Timeline
from aurora_export.runtime.video import open_video
from handmade_bundle import handmade_config, write_bundle
from handmade_video import write_video


@pytest.fixture
def out(tmp_path):
    return tmp_path / "cam.aurstate"


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory):
    """60 seconds at 2 frames a second."""
    return write_video(tmp_path_factory.mktemp("clip") / "long.mp4", 120, rate=2)


def watched(bundle, *videos, **options):
    """The state after the videos, by the Python API, each a second after the one before."""
    with Aurora.open(bundle, threads=1) as aurora:
        for video in videos:
            aurora.watch(video, **options)
        return aurora.state


def first_frames(path, n_frames, fps=1):
    with open_video(path, fps=fps) as video:
        return list(islice(video, n_frames))


def load(bundle, path):
    with Aurora.open(bundle, threads=1) as aurora:
        return State.load(path, aurora.manifest.config, fingerprint=aurora.manifest.fingerprint)


def test_the_state_is_that_of_the_api(bundle, clip, out, invoke):
    result = invoke("ingest", bundle, clip, "--out", out, "--fps", 2)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{out}: 1.")
    assert result.stdout.endswith(" kB, 5 frames, up to 0:02\n")
    expected = watched(bundle, clip, fps=2)
    assert load(bundle, out).digest == expected.digest
    assert load(bundle, out).header == expected.header
    assert expected.header.sampling == "2 fps"
    assert os.listdir(out.parent) == [out.name]


def test_json(bundle, clip, out, invoke):
    found = json.loads(invoke("ingest", bundle, clip, "--out", out, "--num-frames", 4, "--json").stdout)
    assert (found["n_frames"], found["n_visual_tokens"], found["frames_seen"]) == (4, 36, 4)
    assert found["n_bytes"] == out.stat().st_size
    assert found["position_s"] == pytest.approx(2.4)
    assert read_state_header(out).header.sampling == "4 frames"


def test_several_videos_are_one(bundle, clip, out, invoke):
    invoke("ingest", bundle, clip, clip, "--out", out)
    state = load(bundle, out)
    assert state.digest == watched(bundle, clip, clip).digest
    assert (state.header.frames_seen, state.header.position_s) == (6, 5.0)


def test_append_is_as_if_never_stopped(bundle, clip, out, tmp_path, invoke):
    invoke("ingest", bundle, clip, clip, "--out", out)
    parts = tmp_path / "parts.aurstate"
    for _ in range(2):
        result = invoke("ingest", bundle, clip, "--out", parts, "--append")
    assert "3 frames, 6 in all, up to 0:05" in result.stdout
    whole, pieces = load(bundle, out), load(bundle, parts)
    assert pieces.digest == whole.digest
    assert pieces.header.parent_digest == watched(bundle, clip).digest
    assert pieces.header.model_copy(update={"parent_digest": None}) == whole.header


def test_another_rate_is_said(bundle, clip, out, invoke):
    invoke("ingest", bundle, clip, "--out", out)
    invoke("ingest", bundle, clip, "--out", out, "--append", "--fps", 2)
    assert read_state_header(out).header.sampling == "mixed"


def test_prime(bundle, clip, out, invoke):
    invoke("ingest", bundle, clip, "--out", out, "--prime", "What moves?")
    assert load(bundle, out).digest == watched(bundle, clip, prompt="What moves?").digest
    header = read_state_header(out).header
    assert (header.prompt_form, header.primed_for) == ("primed", "What moves?")


def test_start_continues_where_another_run_stopped(bundle, long_clip, out, tmp_path, invoke):
    """A run that was cut off and one that goes on make, bit for bit, what one run makes."""
    whole = tmp_path / "whole.aurstate"
    invoke("ingest", bundle, long_clip, "--out", whole)
    invoke("ingest", bundle, long_clip, "--out", out, "--duration", "30s")
    assert read_state_header(out).header.position_s == 29
    invoke("ingest", bundle, long_clip, "--out", out, "--append", "--start", "0:30")
    assert load(bundle, out).digest == load(bundle, whole).digest
    assert read_state_header(out).header.video_digest == read_state_header(whole).header.video_digest
    assert read_state_header(out).header.position_s == 59


def test_checkpoints(bundle, long_clip, out, invoke):
    result = invoke("ingest", bundle, long_clip, "--out", out, "--every", "10s")
    assert result.stdout.endswith("60 frames, up to 0:59, 5 checkpoints\n")
    checkpoints = Timeline.beside(out).checkpoints()
    assert [entry.time_s for entry in checkpoints] == [10, 20, 30, 40, 50]
    assert [entry.header.frames_seen for entry in checkpoints] == [11, 21, 31, 41, 51]
    assert all(read_state_header(entry.path).encoding == "packed" for entry in checkpoints)
    assert load(bundle, checkpoints[1].path).digest == watched(bundle, first_frames(long_clip, 21)).digest


def test_append_adds_checkpoints(bundle, long_clip, out, invoke):
    for _ in range(2):
        assert invoke("ingest", bundle, long_clip, "--out", out, "--every", "20s", "--append").exit_code == 0
    assert [entry.time_s for entry in Timeline.beside(out).checkpoints()] == [20, 40, 60, 80, 100]


def test_a_budget_thins_them(bundle, long_clip, out, invoke):
    invoke("ingest", bundle, long_clip, "--out", out, "--every", "2s")
    size = Timeline.beside(out).checkpoints()[0].n_bytes
    invoke("ingest", bundle, long_clip, "--out", out, "--every", "2s", "--keep", 8 * size, "--replace")
    times = [entry.time_s for entry in Timeline.beside(out).checkpoints()]
    assert len(times) in (7, 8)
    assert (times[0], times[-1]) == (2, 58)
    assert len(list(Timeline.beside(out).folder.iterdir())) == len(times)


def test_replace_forgets_the_old_checkpoints(bundle, long_clip, clip, out, invoke):
    invoke("ingest", bundle, long_clip, "--out", out, "--every", "10s")
    invoke("ingest", bundle, clip, "--out", out, "--replace")
    assert Timeline.beside(out).checkpoints() == []
    assert read_state_header(out).header.frames_seen == 3


def test_a_bad_video_loses_nothing(bundle, clip, out, tmp_path, invoke):
    bad = tmp_path / "bad.mp4"
    bad.write_text("dear all")
    result = invoke("ingest", bundle, clip, bad, clip, "--out", out)
    assert result.exit_code == 4
    assert f"error: {bad}: not a video" in result.stderr
    assert f"warning: {out} holds what was watched: 3 frames, up to 0:02; --append continues it" in result.stderr
    assert load(bundle, out).digest == watched(bundle, clip).digest


def test_nothing_is_written_if_nothing_was_watched(bundle, out, tmp_path, refused):
    bad = tmp_path / "bad.mp4"
    bad.write_text("dear all")
    assert refused("ingest", bundle, bad, "--out", out) == (f"{bad}: not a video", 4)
    assert os.listdir(tmp_path) == ["bad.mp4"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--append", "--replace"), "--append and --replace exclude each other"),
        (("--fps", 1, "--num-frames", 4), "--fps and --num-frames exclude each other"),
        (("--start", "3", "--num-frames", 4), "--start and --num-frames exclude each other"),
        (("--every", "0"), "--every must be over 0"),
        (("--every", "soon"), "invalid value for '--every': 'soon' is no time: 90, 90s, 1.5m, 2h, 12:30 and 1:02:03"),
        (("--keep", "1GB"), "--keep is about the checkpoints of --every"),
        (("--every", "9", "--keep", "much"), "invalid value for '--keep': 'much' is no size: 500MB, 2GB and 64MiB are"),
        (("--fps", 0), "fps is 0.0; it must be over 0 and at most 1000"),
        (("--prime", " "), "the question is empty"),
        (("--start", "9:00"), "there are no frames to watch"),
    ],
)
def test_bad_flag_values(flags, message, bundle, clip, out, refused):
    found, code = refused("ingest", bundle, clip, "--out", out, *flags)
    assert found.startswith(message)
    assert code == 2
    assert not out.exists()


def test_refusals(bundle, clip, out, tmp_path, refused, invoke):
    assert refused("ingest", bundle, clip, "no.mp4", "--out", out) == ("no.mp4: no such file", 2)
    assert refused("ingest", bundle, tmp_path, "--out", out) == (f"{tmp_path}: is a folder, not a video file", 2)
    assert refused("ingest", bundle, clip, "--out", tmp_path, "--replace") == (f"{tmp_path}: is a folder", 2)
    assert refused("ingest", bundle, clip, clip, "--start", 1, "--out", out)[0] == "--start is for one video"
    nowhere = tmp_path / "nowhere" / "x.aurstate"
    assert refused("ingest", bundle, clip, "--out", nowhere)[0].startswith(f"{nowhere}: cannot be written: ")
    invoke("ingest", bundle, clip, "--out", out)
    before = out.read_bytes()
    assert refused("ingest", bundle, clip, "--out", out) == (f"{out}: exists", 2)
    message, _ = refused("ingest", bundle, clip, "--out", out, "--append", "--prime", "What?")
    assert message == "--prime must come before the first frame, and this state has watched some"
    other = write_bundle(tmp_path / "other.aurora", seed=1)
    message, code = refused("ingest", other, clip, "--out", out, "--append")
    assert message.startswith(f"{out}: state of the model ")
    assert code == 3
    assert out.read_bytes() == before
    image_first = write_bundle(tmp_path / "i.aurora", handmade_config(prompt={"sandwich": "image_first"}))
    message, _ = refused("ingest", image_first, clip, "--out", tmp_path / "i.aurstate", "--prime", "What?")
    assert message.startswith("--prime: this model reads no question before the frames")


def test_checkpoints_without_their_state(bundle, long_clip, out, refused, invoke):
    invoke("ingest", bundle, long_clip, "--out", out, "--every", "20s")
    newest = Timeline.beside(out).checkpoints()[-1].path
    out.unlink()
    message, _ = refused("ingest", bundle, long_clip, "--out", out, "--append")
    assert message == f"{out.with_suffix('.timeline')}: holds checkpoints, but their state {out} is not there"
    first = Timeline.beside(out).checkpoints()[0].path
    out.write_bytes(first.read_bytes())
    assert "goes on to 0:40" in refused("ingest", bundle, long_clip, "--out", out, "--append")[0]
    out.write_bytes(newest.read_bytes())
    assert invoke("ingest", bundle, long_clip, "--out", out, "--append", "--start", "0:41").exit_code == 0
    assert read_state_header(out).header.frames_seen == 60


def test_two_at_once(bundle, clip, out, refused):
    from aurora_export.runtime.ingest import exclusive

    with exclusive(out):
        assert refused("ingest", bundle, clip, "--out", out) == (f"{out}: another process is writing it", 2)
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number, bundle, tmp_path, out):
    """What was watched is kept, and nothing but whole states is there."""
    video = write_video(tmp_path / "v.mp4", 3000, rate=2, size=(32, 32), codec="mpeg4")
    command = [sys.executable, "-m", "aurora_export", "ingest", bundle, video, "-o", out, "--fps", "2", "--every", "5"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not out.exists() and process.poll() is None:
            pass
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stdout == ""
    assert "Traceback" not in stderr
    assert f"warning: {out} holds what was watched: " in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    state = load(bundle, out)
    assert 0 < state.header.frames_seen < 3000
    assert f"{state.header.frames_seen} frames" in stderr
    assert state.digest == watched(bundle, first_frames(video, state.header.frames_seen, fps=2)).digest
