"""What a user names becomes a source: a file, a file that grows, an address, a camera, raw frames on stdin.

Addresses are opened because a user gave them, and never because a file or a server named them; see `containers`.
"""

from __future__ import annotations

import contextlib
import io
import re
import ssl
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np

from aurora_export.errors import IntegrityError, SourceError, UsageError
from aurora_export.frames import MAX_SIDE
from aurora_export.runtime.containers import FORMATS, container_errors, open_container, video_stream
from aurora_export.runtime.live import Connection, LiveSource, as_source_error
from aurora_export.runtime.video import MAX_FPS, OpenSource, check_sampling, is_cut_off, open_video

STDIN = "-"
PROTOCOLS = {
    "http": ("http", "tcp"),
    "https": ("https", "httpproxy", "tls", "tcp"),
    "rtsp": ("rtsp", "rtp", "tcp"),
    "rtsps": ("rtsps", "rtsp", "rtp", "tls", "tcp"),
}
"""Scheme of an address -> what FFmpeg may speak to open it."""

LIVE_FORMATS = (*FORMATS, "rtsp", "mpjpeg")
DEFAULT_STALL_S = 10.0
DEFAULT_RECONNECT_S = 300.0
POLL_S = 0.05
"""So often a file that grows is looked at."""

Kind: TypeAlias = Literal["file", "growing", "stdin", "camera", "address"]


@dataclass(frozen=True)
class FootageOptions:
    """How footage is read; what does not go with a kind of source is refused."""

    fps: float | None = None
    num_frames: int | None = None
    start_s: float = 0.0
    follow: bool = False
    """files grow: their end is that nothing comes for stall_s"""
    raw_size: tuple[int, int] | None = None
    """of the frames on stdin: width, height"""
    raw_fps: float | None = None
    late: Literal["wait", "drop"] | None = None
    """what happens when the model is slower; None: what suits the source"""
    stall_s: float | None = None
    reconnect_s: float | None = None


def kind_of(name: str, *, follow: bool = False) -> Kind:
    """What a name stands for. Raises UsageError for an unknown scheme and for a file that is not there."""
    if name == STDIN:
        return "stdin"
    if match := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+)://", name):
        if match[1].lower() not in PROTOCOLS:
            raise UsageError(f"{match[1]}: is no address that is read", hint=f"known are {', '.join(PROTOCOLS)}")
        return "address"
    path = Path(name)
    if not path.exists():
        raise UsageError(f"{name}: no such file")
    if path.is_dir():
        raise UsageError(f"{name}: is a folder, not a video file")
    if stat.S_ISCHR(path.stat().st_mode):
        return "camera"
    return "growing" if follow else "file"


def open_footage(name: str, options: FootageOptions) -> OpenSource:
    """Open a source by its name; `-` is stdin. Raises UsageError, and what `open_video` and `LiveSource` raise."""
    kind = kind_of(name, follow=options.follow)
    check_options(name, kind, options)
    if kind == "file":
        return open_video(name, fps=options.fps, num_frames=options.num_frames, start_s=options.start_s)
    stall_s = DEFAULT_STALL_S if options.stall_s is None else options.stall_s
    if kind == "stdin":
        assert options.raw_size is not None and options.raw_fps is not None  # checked above
        # Without a buffer: its lock, held by a thread that waits, would keep the program from ending.
        stream = io.FileIO(sys.stdin.fileno(), "rb", closefd=False)
        connect = partial(_raw_frames, stream, options.raw_size, options.raw_fps)
        return LiveSource("stdin", connect, fps=options.fps, drops=options.late == "drop")
    if kind == "growing":
        connect = partial(_growing_file, Path(name), stall_s)
        return LiveSource(name, connect, fps=options.fps, drops=options.late == "drop")
    shown, opener = (name, _camera(name)) if kind == "camera" else (without_password(name), _address(name))
    is_finite = False
    if kind == "address" and not name.lower().startswith("rtsp"):
        with contextlib.closing(_open(shown, opener, stall_s)) as container:
            is_finite = container.duration is not None or container.size > 0
    reconnect_s = DEFAULT_RECONNECT_S if options.reconnect_s is None else options.reconnect_s
    return LiveSource(
        shown,
        partial(_container_pictures, shown, opener, stall_s),
        fps=options.fps,
        drops=options.late == "drop" if options.late else not is_finite,
        reconnect_s=0.0 if is_finite else reconnect_s,
    )


def check_options(name: str, kind: Kind, options: FootageOptions) -> None:
    """Raises UsageError for an option that this kind of source has no use for, or that it needs."""
    check_sampling(options.fps, options.num_frames)
    is_raw = options.raw_size is not None or options.raw_fps is not None
    without_use = {
        "num_frames": options.num_frames is not None and kind != "file",
        "start": options.start_s and kind != "file",
        "follow": options.follow and kind not in ("growing", "file"),
        "raw_size and raw_fps": is_raw and kind != "stdin",
        "late": options.late is not None and kind == "file",
        "stall": options.stall_s is not None and kind in ("file", "stdin"),
        "reconnect": options.reconnect_s is not None and kind not in ("camera", "address"),
    }
    kinds = {"file": "a file", "growing": "a file that grows", "stdin": "stdin", "camera": "a camera"}
    for option, is_given in without_use.items():
        if is_given:
            shown = without_password(name)
            raise UsageError(f"{shown}: {kinds.get(kind, 'an address')} has no use for {option}", hint="leave it out")
    if kind == "stdin" and (options.raw_size is None or options.raw_fps is None):
        raise UsageError(
            "stdin needs the size and the rate of its frames, which are raw RGB: raw_size and raw_fps",
            hint="ffmpeg -i INPUT -f rawvideo -pix_fmt rgb24 - | "
            "aurora-export ingest BUNDLE - --raw-size 640x480 --raw-fps 25 --out FILE",
        )
    if options.raw_size is not None and not all(1 <= side <= MAX_SIDE for side in options.raw_size):
        raise UsageError(f"raw frames of {'x'.join(map(str, options.raw_size))}; each side must be 1 to {MAX_SIDE}")
    if options.raw_fps is not None and not 0 < options.raw_fps <= MAX_FPS:
        raise UsageError(f"raw_fps is {options.raw_fps:g}; it must be over 0 and at most {MAX_FPS}")
    if options.stall_s is not None and options.stall_s <= 0:
        raise UsageError("the time of a stall must be over 0")


def without_password(name: str) -> str:
    """An address as it may be shown."""
    return re.sub(r"(?<=://)[^/@]*@", "", name)


def _raw_frames(stream: IO[bytes] | io.FileIO, size: tuple[int, int], fps: float) -> Connection:
    """Frames of width * height * 3 bytes, one after the other; the rest of a last one that is not whole is left out."""
    width, height = size
    n_bytes = width * height * 3
    index = 0
    while len(data := _read_whole(stream, n_bytes)) == n_bytes:
        yield index / fps, np.frombuffer(data, np.uint8).reshape(height, width, 3)
        index += 1
    if data:
        raise SourceError(
            f"stdin: ends inside a frame: {len(data)} of {n_bytes} bytes came of frame {index}",
            hint="is --raw-size that of the frames? The whole ones before it were watched",
        )
    if not index:
        raise IntegrityError("stdin: no frame came", hint="pipe raw RGB frames into it")


def _read_whole(stream: IO[bytes] | io.FileIO, n_bytes: int) -> bytearray:
    """So many bytes, or what there is before the end."""
    data = bytearray()
    while len(data) < n_bytes and (more := stream.read(n_bytes - len(data))):
        data += more
    return data


def _growing_file(path: Path, stall_s: float) -> Connection:
    """Pictures of a file that is still being written; it ends when nothing has come for stall_s."""
    with path.open("rb") as file:
        try:
            with contextlib.closing(open_container(_Growing(file, stall_s))) as container:  # type: ignore[arg-type]
                yield from _pictures(container, str(path))
        except container_errors() as error:
            raise IntegrityError(
                f"{path}: not a video that can be read while it grows",
                hint="MPEG-TS, Matroska and fragmented MP4 can; other MP4 files only once they are finished",
            ) from error


class _Growing:
    """A file whose end is waited for; it cannot seek, as what FFmpeg would look for at the end is not there yet."""

    def __init__(self, file: IO[bytes], stall_s: float) -> None:
        self._file, self._stall_s = file, stall_s
        self._ended = False

    def read(self, n_bytes: int) -> bytes:
        """Bytes as soon as there are some; none if none came in time."""
        end = time.monotonic() + self._stall_s
        while not (data := self._file.read(n_bytes)) and not self._ended:
            self._ended = time.monotonic() > end
            time.sleep(POLL_S)
        return data


def _address(url: str) -> Callable[[float], Any]:
    """What opens an address. RTSP goes over TCP: no packet is lost on the way, and no port has to be open here."""
    scheme = url.partition(":")[0].lower()
    options = {"rtsp_transport": "tcp"} if scheme.startswith("rtsp") else {"max_redirects": "0"}
    if "tls" in PROTOCOLS[scheme]:
        options |= _tls_options()
    return lambda timeout_s: open_container(
        url, formats=LIVE_FORMATS, protocols=PROTOCOLS[scheme], timeout_s=timeout_s, options=options
    )


def _tls_options() -> dict[str, str]:
    """The server's certificate must be signed by one that this machine trusts; FFmpeg alone would take any."""
    trusted = ssl.get_default_verify_paths().cafile
    return {"tls_verify": "1"} | ({"ca_file": trusted} if trusted else {})


def _camera(name: str) -> Callable[[float], Any]:
    if not sys.platform.startswith("linux"):
        raise UsageError(
            f"{name}: cameras are read on Linux only",
            hint="pipe its frames: ffmpeg -i CAMERA -f rawvideo -pix_fmt rgb24 - | aurora-export ingest ... -",
        )
    return lambda timeout_s: open_container(name, protocols=("file",), device="v4l2", timeout_s=timeout_s)


def _open(shown: str, opener: Callable[[float], Any], timeout_s: float) -> Any:
    try:
        return opener(timeout_s)
    except container_errors() as error:
        failure = as_source_error(shown, error)
        failure.hint = (
            "is the address right, is it a video and no play list, does it not redirect, is its certificate trusted?"
        )
        raise failure from error


def _container_pictures(shown: str, opener: Callable[[float], Any], timeout_s: float) -> Connection:
    """Pictures of one connection. Raises SourceError when it breaks, or nothing comes for timeout_s."""
    with contextlib.closing(_open(shown, opener, timeout_s)) as container:
        try:
            yield from _pictures(container, shown)
        except container_errors() as error:
            raise as_source_error(shown, error) from error


def _pictures(container: Any, name: str) -> Connection:
    """All decoded frames with their times; packets that cannot be decoded are left out."""
    stream = video_stream(container, name)
    step_s = float(1 / (stream.average_rate or 25))
    first_s, last_s = None, -step_s
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, EOFError):
            break
        try:
            frames = packet.decode()
        except EOFError:
            break
        except container_errors():
            continue
        for frame in frames:
            last_s = last_s + step_s if frame.pts is None else float(frame.pts * frame.time_base)
            first_s = last_s if first_s is None else first_s
            yield last_s, frame
    announced_s = None if container.duration is None else container.duration / 1e6
    if announced_s is not None and first_s is not None and is_cut_off(last_s + step_s - first_s, announced_s):
        raise SourceError(f"{name}: it ends after {last_s + step_s - first_s:.1f} s of {announced_s:.1f} s")
