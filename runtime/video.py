"""A video file as a stream of RGB frames, decoded packet by packet: memory does not depend on its length.

A video may come from a stranger. It is read through a file object, never by name, and only in the containers of
FORMATS: play lists and scripts, which make FFmpeg open other files or addresses, are not among them.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from aurora_export.errors import DependencyError, IntegrityError, UsageError

FORMATS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "ogg", "mxf", "nut", "ivf"),
    *("h264", "hevc", "m4v", "av1", "obu", "mjpeg", "yuv4mpegpipe", "gif", "apng"),
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "ppm_pipe", "pgm_pipe"),
)
"""FFmpeg's names of the containers that are read; an image is a video of one frame."""

DEFAULT_FPS = 1.0
MAX_FPS = 1000
MAX_NUM_FRAMES = 10**6
MAX_FRAME_PIXELS = 2**26
"""8192 x 8192: a header that announces more is refused before its frames are decoded."""

CUT_OFF_S = 0.5
CUT_OFF_SHARE = 0.02
"""A video that ends earlier than it announces, by more than both, is reported as cut off."""

_log = logging.getLogger(__name__)

_Wanted: TypeAlias = Callable[[int, Fraction], bool]
"""Whether the frame of this index and time is in the sample; asked once for each frame, in order."""


class Frame(NamedTuple):
    """One picture of a video: uint8 RGB, shape (height, width, 3), upright; seconds since the first, if known."""

    pixels: np.ndarray
    time_s: float | None = None


FrameSource: TypeAlias = "str | Path | Video | Iterable[np.ndarray | Frame]"
"""A video or image file, an open video, or pictures: uint8 RGB, shape (height, width, 3), any size, any number."""


class Pictures:
    """Frames that the caller has: arrays, or `Frame`s where their times are known. Mirrors `Video`."""

    def __init__(self, pictures: Iterable[np.ndarray | Frame]) -> None:
        self._pictures = pictures
        self.warnings: list[str] = []

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __iter__(self) -> Iterator[Frame]:
        """Yield each as a Frame, its time None where it is not known."""
        return (picture if isinstance(picture, Frame) else Frame(picture) for picture in self._pictures)


class Video:
    """An open video; iterate it once to decode the sampled frames. Use it as a context manager, or `close` it.

    What goes wrong on the way is not an error as long as one frame can be decoded: it is in `warnings` once the
    iteration has ended, and logged.
    """

    def __init__(self, path: Path, *, fps: float | None, num_frames: int | None) -> None:
        """See `open_video`."""
        _check_sampling(fps, num_frames)
        self.path = path
        self.warnings: list[str] = []
        self._resources = contextlib.ExitStack()
        try:
            self._container, self._stream = _open_stream(path, self._resources)
            if num_frames is None:
                self._wanted = _at_rate(DEFAULT_FPS if fps is None else fps)
            else:
                self._wanted = _evenly(self._count_frames(), num_frames)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Video:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the decoder and the file."""
        self._resources.close()

    def __iter__(self) -> Iterator[Frame]:
        """Decode; yield the frames of the sample. Raises IntegrityError if not one frame can be decoded."""
        to_pixels = _ToPixels(load_library())
        for index, (time, frame) in enumerate(self._decoded()):
            if self._wanted(index, time):
                yield Frame(to_pixels(frame), float(time))

    def _count_frames(self) -> int:
        """Frames as the container says; if it does not, packets are counted, without decoding them."""
        if self._stream.frames:
            return int(self._stream.frames)
        n_packets = 0
        with contextlib.suppress(OSError, ValueError):  # a broken tail: the decoding pass reports it
            n_packets = sum(1 for packet in self._container.demux(self._stream) if packet.size)
        self._resources.close()
        self._container, self._stream = _open_stream(self.path, self._resources)
        if not n_packets:
            raise _no_frames(self.path)
        return n_packets

    def _decoded(self) -> Iterator[tuple[Fraction, Any]]:
        """All frames with their times since the first one, as a frame of PyAV each."""
        step = 1 / Fraction(self._stream.average_rate or 25)
        start, time, duration = None, -step, step
        n_frames = n_broken = 0
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
                frames = packet.decode()
            except (StopIteration, EOFError):
                break
            # Of a damaged file, what can be decoded is used. Every pass takes a packet, so this ends.
            except (OSError, ValueError) as error:
                _log.debug("%s: %s", self.path, error)
                n_broken += 1
                continue
            n_broken += packet.is_corrupt
            for frame in frames:
                if frame.pts is None:  # a raw stream: its nominal rate has to do
                    time += step
                else:
                    stamp = frame.pts * Fraction(frame.time_base)
                    start = stamp if start is None else start
                    time = stamp - start
                duration = frame.duration * Fraction(frame.time_base) if frame.duration else step
                n_frames += 1
                yield time, frame
        if not n_frames:
            raise _no_frames(self.path, n_broken)
        self._report_damage(n_frames, n_broken, float(time + duration))

    def _report_damage(self, n_frames: int, n_broken: int, end_s: float) -> None:
        """Warn of packets that were left out, and of an end that comes before the announced one."""
        found = []
        if n_broken:
            found.append(f"{n_broken} packets are damaged")
        announced_s = _announced_duration_s(self._stream)
        if announced_s is not None and announced_s - end_s > max(CUT_OFF_S, CUT_OFF_SHARE * announced_s):
            found.append(f"it ends after {end_s:.1f} s of {announced_s:.1f} s")
        if found:
            warning = f"{self.path}: broken video: {' and '.join(found)}; the {n_frames} decoded frames are used"
            self.warnings.append(warning)
            _log.warning(warning)


def open_video(path: str | Path, *, fps: float | None = None, num_frames: int | None = None) -> Video:
    """Open a video or image file for one pass over a sample of its frames.

    fps: frames per second of video time; 1 if neither is given. The sampling instants are k / fps seconds after
    the first frame, k = 0, 1, 2, ...; each takes the first frame at or after it, and no frame is taken twice. So a
    rate over the video's own takes every frame, and a gap in a video of variable rate is one frame. Times are
    exact fractions.
    num_frames: this many frames spread evenly, first and last included: the indices are
    linspace(0, total - 1, min(total, num_frames)), truncated. The total is the container's frame count or, where
    it has none, the number of packets.

    Frames are upright (rotation metadata is applied) and as large as in the file; grey becomes RGB, transparency
    is dropped. Raises UsageError (no such file, both or bad options), IntegrityError (no video, nothing to decode)
    or DependencyError (no PyAV). A file that is broken behind its first frame is not an error: see `Video`.
    """
    return Video(Path(path), fps=fps, num_frames=num_frames)


def open_source(source: FrameSource, *, fps: float | None = None, num_frames: int | None = None) -> Video | Pictures:
    """Open whatever holds frames; `fps` and `num_frames` are for files, see `open_video` for them and the errors."""
    if isinstance(source, str | Path):
        return open_video(source, fps=fps, num_frames=num_frames)
    if fps is not None or num_frames is not None:
        raise UsageError(
            "fps and num_frames choose frames of a file; pictures are used as given",
            hint="leave out the ones that should not be watched, or give the options to open_video()",
        )
    return source if isinstance(source, Video) else Pictures(source)


def _check_sampling(fps: float | None, num_frames: int | None) -> None:
    if fps is not None and num_frames is not None:
        raise UsageError("fps and num_frames exclude each other", hint="give the rate or the number of frames")
    if fps is not None and not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise UsageError(f"fps is {fps}; it must be over 0 and at most {MAX_FPS}")
    if num_frames is not None and not 1 <= num_frames <= MAX_NUM_FRAMES:
        raise UsageError(f"num_frames is {num_frames}; it must be from 1 to {MAX_NUM_FRAMES}")


def _open_stream(path: Path, resources: contextlib.ExitStack) -> tuple[Any, Any]:
    """Container and video stream of a file; what must be closed later is left in `resources`."""
    av = load_library()
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, not a video file")
    try:
        file = resources.enter_context(path.open("rb"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    allowed = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
    try:
        container = resources.enter_context(av.open(file, container_options=allowed))
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(
            f"{path}: not a video", hint="MP4, MOV, Matroska, WebM, AVI, MPEG, GIF and image files can be read"
        ) from error
    streams = [stream for stream in container.streams.video if not _is_cover(av, stream)]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise IntegrityError(f"{path}: has no video stream, only {', '.join(kinds)}")
    stream = streams[0]
    n_pixels = stream.codec_context.width * stream.codec_context.height
    if n_pixels > MAX_FRAME_PIXELS:
        raise IntegrityError(f"{path}: frames of {n_pixels} pixels, over the limit of {MAX_FRAME_PIXELS}")
    # Not frame by frame in threads: after a damaged packet that loses frames that can be decoded.
    stream.thread_type = "SLICE"
    return container, stream


def load_library() -> Any:
    """The av module, silent. Raises DependencyError."""
    try:
        import av
    except ImportError as error:
        raise DependencyError(f"PyAV cannot be imported: {error}", hint="pip install av") from error
    # FFmpeg's own lines say nothing that the exceptions do not.
    av.logging.set_level(None)
    return av


def _is_cover(av: Any, stream: Any) -> bool:
    """Whether a stream is the picture on a record's sleeve, not a video."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _no_frames(path: Path, n_broken: int = 0) -> IntegrityError:
    if n_broken:
        return IntegrityError(f"{path}: not one frame can be decoded; {n_broken} packets are damaged")
    return IntegrityError(f"{path}: the video has no frames")


def _at_rate(fps: float) -> _Wanted:
    rate = Fraction(repr(float(fps)))
    next_instant = 0

    def wanted(index: int, time: Fraction) -> bool:
        nonlocal next_instant
        if time * rate < next_instant:
            return False
        next_instant = math.floor(time * rate) + 1
        return True

    return wanted


def _evenly(total: int, num_frames: int) -> _Wanted:
    indices = iter(np.linspace(0, total - 1, min(total, num_frames)).astype(np.int64).tolist())
    following = next(indices)

    def wanted(index: int, time: Fraction) -> bool:
        nonlocal following
        if index != following:
            return False
        following = next(indices, -1)
        return True

    return wanted


def _announced_duration_s(stream: Any) -> float | None:
    """How long the container says that the video is; None where it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    try:  # Matroska: hours:minutes:seconds in a tag
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None


class _ToPixels:
    """Decoded frames to upright RGB arrays."""

    def __init__(self, av: Any) -> None:
        # One for all frames: it keeps its tables. Without SIMD's shortcuts, so that every machine gets the same bytes.
        self._reformatter = av.video.reformatter.VideoReformatter()
        kinds = av.video.reformatter.Interpolation
        self._exact = kinds.BILINEAR | kinds.ACCURATE_RND | kinds.BITEXACT
        self._matrices: dict[int, tuple[int, int, int, int]] = {}

    def __call__(self, frame: Any) -> np.ndarray:
        """uint8, shape (height, width, 3), as the metadata says that it is to be shown."""
        pixels = self._reformatter.reformat(frame, format="rgb24", interpolation=self._exact, threads=1).to_ndarray()
        # Pixel (x, y) belongs at (a x + c y, b x + d y), up to a shift. Only multiples of 90 degrees are applied.
        a, b, c, d = self._matrix(frame)
        if not b and not c:
            return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
        if not a and not d:
            return pixels.swapaxes(0, 1)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
        return pixels

    def _matrix(self, frame: Any) -> tuple[int, int, int, int]:
        """Upper left corner of the display matrix, of which the signs matter."""
        rotation = frame.rotation
        if rotation not in self._matrices:
            # Once for a video: a frame whose side data was looked at is part of a reference cycle, and lives on.
            self._matrices[rotation] = _display_matrix(frame)
        return self._matrices[rotation]


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know the kind of EXIF data, which photos have beside the matrix
        return {90: (0, -1, 1, 0), -90: (0, 1, -1, 0), 180: (-1, 0, 0, -1)}.get(frame.rotation, (1, 0, 0, 1))
    if matrix is None:
        return (1, 0, 0, 1)
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    return (a, b, c, d)
