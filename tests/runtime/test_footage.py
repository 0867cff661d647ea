"""Files that grow, addresses and stdin, with servers on the loopback interface."""

from __future__ import annotations

import io
import threading
import time
from functools import partial
from itertools import islice

import numpy as np
import pytest

from aurora_export.errors import IntegrityError, SourceError, UsageError
from aurora_export.runtime import live
from aurora_export.runtime.footage import FootageOptions, _raw_frames, kind_of, open_footage, without_password
from aurora_export.runtime.video import open_video
from handmade_video import index_of, picture
from live_servers import CERTIFICATE, http_server, rtsp_server, send, serving, with_tls

STALL_S = 0.8
"""Long enough that a busy machine is not taken for a silent source."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(live, "FIRST_DELAY_S", 0.02)


@pytest.fixture(scope="module")
def stream(make_video) -> bytes:
    """2.5 seconds of MPEG-TS at 10 frames a second."""
    return make_video("clip.ts").read_bytes()


def opened(name, **options):
    return open_footage(str(name), FootageOptions(**options))


def watched(source):
    """Frames until the end, and the error that it was, if it was one."""
    frames = []
    try:
        with source:
            for frame in source:
                frames.append(frame)
    except SourceError as error:
        return frames, error.message
    return frames, None


def indices(frames):
    return [index_of(frame.pixels) for frame in frames]


def test_a_file_over_http_is_the_file(make_video):
    """It has an end and can wait: nothing is dropped, however slow the model."""
    path = make_video("clip.mp4", 50, options={"movflags": "faststart"})
    data = path.read_bytes()
    with serving(http_server(partial(send, data=data, length=True))) as port:
        source = opened(f"http://127.0.0.1:{port}/clip.mp4", fps=5)
        frames = []
        with source:
            for frame in source:
                frames.append(frame)
                time.sleep(0.01)
    with open_video(path, fps=5) as video:
        for mine, theirs in zip(frames, video, strict=True):
            assert mine.time_s == pytest.approx(theirs.time_s)
            np.testing.assert_array_equal(mine.pixels, theirs.pixels)
    assert source.counts.n_dropped == 0


def test_a_file_over_http_that_breaks_off(make_video):
    data = make_video("clip.mp4", 100, options={"movflags": "faststart"}).read_bytes()

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])

    with serving(http_server(answer)) as port:
        frames, error = watched(opened(f"http://127.0.0.1:{port}/clip.mp4"))
    assert 1 <= len(frames) < 10
    assert error.startswith(f"http://127.0.0.1:{port}/clip.mp4: ")


def test_an_endless_stream_that_stalls_and_comes_back(stream):
    """The first connection falls silent; the second goes on; then the server is gone."""
    answers = [0, 0, 1]

    def answer(handler):
        mood = answers.pop(0) if answers else 2
        if mood < 2:
            send(handler, stream, length=False, stall_s=2 * STALL_S if mood == 0 else 0)

    with serving(http_server(answer)) as port:
        source = opened(f"http://127.0.0.1:{port}/live", fps=10, late="wait", stall_s=STALL_S, reconnect_s=0.3)
        frames, error = watched(source)
    # The first request only finds out whether it has an end.
    assert source.counts.n_connections == 2
    assert len(frames) >= 40  # what the decoder still held is lost with the connection
    assert indices(frames[:20]) == list(range(20))
    assert error.endswith(", and did not come back in 0.3 s")
    assert [frame.time_s for frame in frames] == sorted({frame.time_s for frame in frames})


def test_rtsp(stream):
    with serving(rtsp_server(stream, max_clients=2)) as port:
        source = opened(f"rtsp://127.0.0.1:{port}/cam", fps=10, late="wait", stall_s=STALL_S, reconnect_s=0.2)
        frames, error = watched(source)
    assert source.counts.n_connections == 2
    assert len(frames) >= 40
    assert set(indices(frames[:20])) <= set(range(25))
    assert "did not come back in 0.2 s" in error


def test_rtsp_drops_when_the_model_is_slow(stream):
    with serving(rtsp_server(stream, stall_s=0.2)) as port:
        source = opened(f"rtsp://127.0.0.1:{port}/cam", fps=10, stall_s=STALL_S, reconnect_s=0)
        with source:
            frames = []
            for frame in source:
                frames.append(frame)
                time.sleep(0.3)
    counts = source.counts
    assert counts.n_dropped > 10
    assert len(frames) + counts.n_dropped == counts.n_due
    assert indices(frames)[-1] >= 20, "the newest is not dropped"


def test_another_resolution_in_mid_stream(make_video, stream):
    larger = make_video("larger.ts", size=(128, 96)).read_bytes()
    with serving(http_server(partial(send, data=stream + larger, length=False))) as port:
        source = opened(f"http://127.0.0.1:{port}/live", fps=10, late="wait", reconnect_s=0)
        frames, error = watched(source)
    assert error.endswith("/live: Input/output error"), "without a length an end cannot be told from a loss"
    sizes = [frame.pixels.shape[:2] for frame in frames]
    assert sizes[0] == (48, 64)
    assert sizes[-1] == (96, 128)
    assert source.counts.n_size_changes == 1
    assert len(frames) >= 45


def test_redirects_are_not_followed(stream):
    seen = []

    def answer(handler):
        seen.append(handler.path)
        if handler.path == "/secret":
            send(handler, stream, length=True)
        else:
            handler.send_response(302)
            handler.send_header("Location", f"http://127.0.0.1:{port}/secret")
            handler.end_headers()

    with serving(http_server(answer)) as port, pytest.raises(SourceError) as caught:
        opened(f"http://127.0.0.1:{port}/cam")
    assert "redirect" in caught.value.hint
    assert set(seen) == {"/cam"}


def test_certificates_are_checked(stream, monkeypatch):
    """A server that nobody vouches for is refused; one whose certificate this machine trusts is read."""
    with serving(with_tls(http_server(partial(send, data=stream, length=True)))) as port:
        with pytest.raises(SourceError) as caught:
            opened(f"https://127.0.0.1:{port}/clip.ts")
        assert "certificate" in caught.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        frames, _ = watched(opened(f"https://127.0.0.1:{port}/clip.ts", fps=10))
    assert len(frames) >= 20


def test_certificates_of_rtsps_are_checked(stream):
    """The client hangs up before it says anything to a server that it does not trust."""
    server = with_tls(rtsp_server(stream))
    with serving(server) as port:
        frames, error = watched(opened(f"rtsps://127.0.0.1:{port}/cam", stall_s=2, reconnect_s=0.2))
    assert (frames, error) == ([], f"rtsps://127.0.0.1:{port}/cam: Input/output error")
    assert server.requests == []


def test_play_lists_are_not_read(stream, make_video):
    """A play list would make FFmpeg open what it names, a file of this machine too."""
    here = make_video("here.ts")
    seen = []

    def answer(handler):
        seen.append(handler.path)
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:3", "#EXTINF:2.5,", "other.ts", "#EXTINF:2.5,", f"file://{here}"]
        send(handler, "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode(), length=True)

    with serving(http_server(answer)) as port, pytest.raises(SourceError):
        opened(f"http://127.0.0.1:{port}/list.m3u8")
    assert set(seen) == {"/list.m3u8"}


def test_no_server_no_page():
    not_found = http_server(lambda handler: handler.send_error(404))
    with serving(not_found) as port, pytest.raises(SourceError, match=r"^http://127\.0\.0\.1:\d+/cam: "):
        opened(f"http://user:secret@127.0.0.1:{port}/cam")
    frames, error = watched(opened(f"rtsp://user:secret@127.0.0.1:{port}/cam", reconnect_s=30))
    assert (frames, error) == ([], f"rtsp://127.0.0.1:{port}/cam: Connection refused")


def test_passwords_are_not_shown():
    assert without_password("rtsp://me:p@ss@10.0.0.1/a@b") != "rtsp://me:p@ss@10.0.0.1/a@b"
    assert "secret" not in without_password("rtsp://me:secret@10.0.0.1/cam")
    assert without_password("http://h/x@y") == "http://h/x@y"


def growing(path, data, n_parts=6, pause_s=0.1):
    """A thread that appends to a file."""

    def write():
        for start in range(0, len(data), len(data) // n_parts):
            with path.open("ab") as file:
                file.write(data[start : start + len(data) // n_parts])
            time.sleep(pause_s)

    path.touch()
    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_file_that_grows(suffix, make_video, tmp_path):
    data = make_video(f"clip{suffix}", 50).read_bytes()
    path = tmp_path / f"growing{suffix}"
    thread = growing(path, data)
    frames, error = watched(opened(path, fps=10, follow=True, stall_s=2 * STALL_S))
    thread.join()
    assert error is None
    assert indices(frames) == [i % 32 for i in range(50)]
    assert frames[-1].time_s == pytest.approx(4.9, abs=0.01)


def test_a_file_that_cannot_grow(make_video, tmp_path):
    path = tmp_path / "unfinished.mp4"
    path.write_bytes(make_video("clip.mp4", 50).read_bytes()[:-900])  # its index is at the end
    with pytest.raises(IntegrityError, match="not a video that can be read while it grows"):
        watched(opened(path, follow=True, stall_s=0.1))


def test_raw_frames():
    pictures = np.stack([picture(i) for i in range(25)])
    connection = _raw_frames(io.BytesIO(pictures.tobytes()), (64, 48), 10)
    for index, (time_s, pixels) in enumerate(connection):
        assert time_s == index / 10
        np.testing.assert_array_equal(pixels, pictures[index])
    assert index == 24


def test_raw_frames_that_end_inside_one():
    data = np.stack([picture(i) for i in range(3)]).tobytes()[:-1]
    connection = _raw_frames(io.BytesIO(data), (64, 48), 10)
    assert len(list(islice(connection, 2))) == 2
    with pytest.raises(SourceError, match="stdin: ends inside a frame: 9215 of 9216 bytes came of frame 2"):
        next(connection)
    with pytest.raises(IntegrityError, match="no frame came"):
        list(_raw_frames(io.BytesIO(b""), (64, 48), 10))


def test_what_a_name_stands_for(tmp_path):
    (tmp_path / "a.mp4").touch()
    assert kind_of("-") == "stdin"
    assert kind_of("RTSP://x/y") == kind_of("https://x") == "address"
    assert kind_of(str(tmp_path / "a.mp4")) == "file"
    assert kind_of(str(tmp_path / "a.mp4"), follow=True) == "growing"
    assert kind_of("/dev/null") == "camera"
    for name in ("file:///etc/passwd", "ftp://x", "concat://a", "udp://1.2.3.4:5"):
        with pytest.raises(UsageError, match="is no address that is read"):
            kind_of(name)


def test_no_camera():
    with pytest.raises(SourceError, match=r"^/dev/null: "):
        next(iter(opened("/dev/null")))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rtsp://h/c", {"num_frames": 4}, "rtsp://h/c: an address has no use for num_frames"),
        ("rtsp://u:p@h/c", {"start_s": 3.0}, "rtsp://h/c: an address has no use for start"),
        ("rtsp://h/c", {"follow": True}, "rtsp://h/c: an address has no use for follow"),
        ("rtsp://h/c", {"raw_fps": 3}, "rtsp://h/c: an address has no use for raw_size and raw_fps"),
        ("rtsp://h/c", {"stall_s": 0}, "the time of a stall must be over 0"),
        ("{file}", {"late": "drop"}, "{file}: a file has no use for late"),
        ("{file}", {"stall_s": 3}, "{file}: a file has no use for stall"),
        ("{file}", {"reconnect_s": 3, "follow": True}, "{file}: a file that grows has no use for reconnect"),
        ("-", {}, "stdin needs the size and the rate of its frames"),
        ("-", {"raw_size": (0, 4), "raw_fps": 1}, "raw frames of 0x4; each side must be 1 to 16384"),
        ("-", {"raw_size": (4, 4), "raw_fps": 0}, "raw_fps is 0; it must be over 0 and at most 1000"),
        ("-", {"raw_size": (4, 4), "raw_fps": 1, "reconnect_s": 1}, "-: stdin has no use for reconnect"),
    ],
)
def test_options_that_have_no_use_are_refused(name, options, message, tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(UsageError) as caught:
        opened(name.format(file=tmp_path / "a.mp4"), **options)
    assert caught.value.message.startswith(message.format(file=tmp_path / "a.mp4"))
