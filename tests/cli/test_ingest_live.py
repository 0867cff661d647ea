"""`ingest` of what does not wait: stdin, a growing file, RTSP; run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from aurora_export.runtime.session import Aurora
from aurora_export.runtime.state import read_state_header
from aurora_export.runtime.timeline import Timeline
from aurora_export.runtime.video import Frame
from handmade_video import picture, write_video
from live_servers import rtsp_server, serving

RAW = ("--raw-size", "64x48", "--raw-fps", "10")
N_FRAMES = 40


@pytest.fixture
def out(tmp_path):
    return tmp_path / "cam.aurstate"


def started(*args, **options):
    command = [sys.executable, "-m", "aurora_export", "ingest", *map(str, args)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, start_new_session=True, **pipes, **options)


def raw_frames(n=N_FRAMES) -> bytes:
    return np.stack([picture(i) for i in range(n)]).tobytes()


def test_raw_frames_on_stdin(bundle, out):
    """The state is that of the same frames through the API: at one a second, every tenth."""
    with started(bundle, "-", *RAW, "--out", out, "--json") as process:
        stdout, stderr = process.communicate(raw_frames(), timeout=60)
    assert process.returncode == 0, stderr
    found = json.loads(stdout)
    assert (found["n_frames"], found["n_due"], found["n_dropped"], found["position_s"]) == (4, 4, 0, 3.0)
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch([Frame(picture(10 * i), float(i)) for i in range(4)])
        assert read_state_header(out).header.video_digest == aurora.header.video_digest


def test_frames_that_are_cut_off(bundle, out):
    with started(bundle, "-", *RAW, "--out", out) as process:
        _, stderr = process.communicate(raw_frames()[:-7], timeout=60)
    assert process.returncode == 8
    assert b"error: stdin: ends inside a frame: 9209 of 9216 bytes came of frame 39" in stderr
    assert b"holds what was watched: 4 frames, up to 0:03" in stderr
    assert read_state_header(out).header.frames_seen == 4


def test_interrupted_while_nothing_comes(bundle, out):
    """Ctrl-C on a silent source ends it at once, with what was watched, and no complaint of the interpreter."""
    with started(bundle, "-", *RAW, "--every", "1s", "--out", out) as process:
        process.stdin.write(raw_frames(11))
        process.stdin.flush()
        while not out.exists() and process.poll() is None:  # saved after the second frame
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        started_at = time.monotonic()
        _, stderr = process.communicate(timeout=30)
    assert time.monotonic() - started_at < 10
    assert process.returncode == 130
    assert b"holds what was watched: 2 frames" in stderr
    assert stderr.decode().splitlines()[-1] == "interrupted"
    assert b"Fatal" not in stderr


def test_a_growing_file_keeps_checkpoints(bundle, out, tmp_path):
    data = write_video(tmp_path / "whole.ts", 120, rate=2).read_bytes()
    path = tmp_path / "growing.ts"
    path.write_bytes(data[: len(data) // 2])
    with started(bundle, path, "--follow", "--stall", "3", "--every", "10s", "--out", out) as process:
        time.sleep(0.5)
        with path.open("ab") as file:
            file.write(data[len(data) // 2 :])
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert read_state_header(out).header.position_s == pytest.approx(59, abs=0.1)
    assert [round(entry.time_s) for entry in Timeline.beside(out).checkpoints()] == [10, 20, 30, 40, 50]


def test_rtsp_that_is_lost(bundle, out, tmp_path):
    data = write_video(tmp_path / "whole.ts", 30, rate=10).read_bytes()
    with (
        serving(rtsp_server(data, max_clients=1)) as port,
        started(
            *(bundle, f"rtsp://user:secret@127.0.0.1:{port}/cam", "--fps", "10", "--late", "wait"),
            *("--reconnect", "1.5s", "--stall", "2s", "--out", out),
        ) as process,
    ):
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 8
    assert stdout == b""
    lines = stderr.decode().splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert error.startswith(f"error: rtsp://127.0.0.1:{port}/cam: ")
    assert error.endswith(", and did not come back in 1.5 s")
    assert "hint: what was watched is kept; `ingest --append` continues it" in lines
    assert b"secret" not in stderr
    assert read_state_header(out).header.frames_seen >= 20


def test_duration(bundle, out, clip, invoke):
    result = invoke("ingest", bundle, clip, clip, "--fps", 10, "--duration", "1s", "--out", out)
    assert "20 frames, up to 0:01.9" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-", "--raw-size", "64"), "--raw-size 64: expected WIDTHxHEIGHT"),
        (("-",), "stdin needs the size and the rate of its frames, which are raw RGB: raw_size and raw_fps"),
        (("-", "-", *RAW), "stdin can be read once"),
        (("ftp://host/clip.mp4",), "ftp: is no address that is read"),
        (("rtsp://host/cam", "--num-frames", "4"), "rtsp://host/cam: an address has no use for num_frames"),
        (("rtsp://host/cam", "--late", "never"), "invalid value for '--late': 'never' is not one of 'wait', 'drop'"),
    ],
)
def test_refusals(args, message, bundle, out, refused):
    found, code = refused("ingest", bundle, *args, "--out", out)
    assert (found, code) == (message, 2)
    assert os.listdir(out.parent) == []
