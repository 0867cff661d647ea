"""A video file as a stream of RGB frames, decoded packet by packet: memory does not depend on its length.

A video may come from a stranger. It is read through a file object, never by name, and only in the containers of
FORMATS: play lists and scripts, which make FFmpeg open other files or addresses, are not among them.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from aurora_export.errors import IntegrityError, UsageError
from aurora_export.runtime.ahead import Ahead
from aurora_export.runtime.containers import ToPixels, open_container, video_stream

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on

DEFAULT_FPS = 1.0
MAX_FPS = 1000
MAX_NUM_FRAMES = 10**6
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


class OpenSource:
    """Something open that yields Frames, once; close it, or use it as a context manager."""

    sampling = "as given"
    """The rule by which frames are chosen, in a few words."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        """What was wrong but no error; complete once the iteration has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release what is held; twice is allowed."""

    def read_ahead(self, n: int, prepare: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Ask for frames to be made in a thread, up to n before they are wanted, and their pixels prepared there.

        prepare: what becomes of the pixels of each frame.  Returns whether it will be so: a source that keeps a time
        of its own, or whose frames the caller makes, stays as it is, and its frames come unprepared.
        """
        return False

    def __iter__(self) -> Iterator[Frame]:
        raise NotImplementedError


FrameSource: TypeAlias = "str | Path | OpenSource | Iterable[np.ndarray | Frame]"
"""A video or image file, an open source, or pictures: uint8 RGB, shape (height, width, 3), any size, any number."""


class Pictures(OpenSource):
    """Frames that the caller has: arrays, or `Frame`s where their times are known."""

    def __init__(self, pictures: Iterable[np.ndarray | Frame]) -> None:
        super().__init__()
        self._pictures = pictures

    def __iter__(self) -> Iterator[Frame]:
        """Yield each as a Frame, its time None where it is not known."""
        return (picture if isinstance(picture, Frame) else Frame(picture) for picture in self._pictures)


class Video(OpenSource):
    """An open video; iterate it once to decode the sampled frames. Use it as a context manager, or `close` it.

    What goes wrong on the way is not an error as long as one frame can be decoded: it is in `warnings` once the
    iteration has ended, and logged.
    """

    def __init__(self, path: Path, *, fps: float | None, num_frames: int | None, start_s: float = 0.0) -> None:
        """See `open_video`."""
        super().__init__()
        check_sampling(fps, num_frames)
        if num_frames is not None and start_s:
            raise UsageError("a start needs a rate: num_frames are spread over the whole video", hint="give fps")
        self._start_s = Fraction(repr(float(start_s)))
        self.path = path
        self.sampling = sampling_name(fps, num_frames)
        self._resources = contextlib.ExitStack()
        self._n_ahead = 0
        self._prepare: Callable[[np.ndarray], np.ndarray] = _as_decoded
        self._ahead: Ahead[Frame] | None = None
        try:
            self._container, self._stream = _open_stream(path, self._resources)
            if num_frames is None:
                self._wanted = at_rate(DEFAULT_FPS if fps is None else fps)
            else:
                self._wanted = _evenly(self._count_frames(), num_frames)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the decoder and the file; a thread that reads ahead is ended first."""
        if self._ahead is not None:
            self._ahead.close()
        self._resources.close()

    def read_ahead(self, n: int, prepare: Callable[[np.ndarray], np.ndarray]) -> bool:
        """See `OpenSource.read_ahead`; not for a pipe, where a read may wait for ever. Before the iteration."""
        if self.path.is_file():
            self._n_ahead, self._prepare = n, prepare
        return self._n_ahead > 0

    def __iter__(self) -> Iterator[Frame]:
        """Decode; yield the frames of the sample. Raises IntegrityError if not one frame can be decoded."""
        if not self._n_ahead:
            yield from self._frames()
            return
        self._ahead = Ahead(self._frames(), self._n_ahead, name=f"decoder of {self.path.name}")
        try:
            yield from self._ahead
        finally:
            self._ahead.close()

    def _frames(self) -> Generator[Frame, None, None]:
        """The frames of the sample, prepared."""
        to_pixels = ToPixels()
        for index, (time, frame) in enumerate(self._decoded()):
            if time >= self._start_s and self._wanted(index, time):
                yield Frame(self._prepare(to_pixels(frame)), float(time))

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
        if announced_s is not None and is_cut_off(end_s, announced_s):
            found.append(f"it ends after {end_s:.1f} s of {announced_s:.1f} s")
        if found:
            warning = f"{self.path}: broken video: {' and '.join(found)}; the {n_frames} decoded frames are used"
            self.warnings.append(warning)
            _log.warning(warning)


def open_video(
    path: str | Path, *, fps: float | None = None, num_frames: int | None = None, start_s: float = 0.0
) -> Video:
    """Open a video or image file for one pass over a sample of its frames.

    fps: frames per second of video time; 1 if neither is given. The sampling instants are k / fps seconds after
    the first frame, k = 0, 1, 2, ...; each takes the first frame at or after it, and no frame is taken twice. So a
    rate over the video's own takes every frame, and a gap in a video of variable rate is one frame. Times are
    exact fractions.
    num_frames: this many frames spread evenly, first and last included: the indices are
    linspace(0, total - 1, min(total, num_frames)), truncated. The total is the container's frame count or, where
    it has none, the number of packets.
    start_s: frames before this time are decoded, but not yielded; with fps, the instants stay where they are.

    Frames are upright (rotation metadata is applied) and as large as in the file; grey becomes RGB, transparency
    is dropped. Raises UsageError (no such file, both or bad options), IntegrityError (no video, nothing to decode)
    or DependencyError (no PyAV). A file that is broken behind its first frame is not an error: see `Video`.
    """
    return Video(Path(path), fps=fps, num_frames=num_frames, start_s=start_s)


def open_source(source: FrameSource, *, fps: float | None = None, num_frames: int | None = None) -> OpenSource:
    """Open whatever holds frames; `fps` and `num_frames` are for files, see `open_video` for them and the errors."""
    if isinstance(source, str | Path):
        return open_video(source, fps=fps, num_frames=num_frames)
    if fps is not None or num_frames is not None:
        raise UsageError(
            "fps and num_frames choose frames of a file; pictures are used as given",
            hint="leave out the ones that should not be watched, or give the options to open_video()",
        )
    return source if isinstance(source, OpenSource) else Pictures(source)


def sampling_name(fps: float | None, num_frames: int | None) -> str:
    """The rule of `open_video` in a few words."""
    return f"{DEFAULT_FPS if fps is None else fps:g} fps" if num_frames is None else f"{num_frames} frames"


def check_sampling(fps: float | None, num_frames: int | None) -> None:
    """Raises UsageError for both, or for one that is out of range."""
    if fps is not None and num_frames is not None:
        raise UsageError("fps and num_frames exclude each other", hint="give the rate or the number of frames")
    if fps is not None and not (math.isfinite(fps) and 0 < fps <= MAX_FPS):
        raise UsageError(f"fps is {fps}; it must be over 0 and at most {MAX_FPS}")
    if num_frames is not None and not 1 <= num_frames <= MAX_NUM_FRAMES:
        raise UsageError(f"num_frames is {num_frames}; it must be from 1 to {MAX_NUM_FRAMES}")


def _as_decoded(pixels: np.ndarray) -> np.ndarray:
    return pixels


def _open_stream(path: Path, resources: contextlib.ExitStack) -> tuple[Any, Any]:
    """Container and video stream of a file; what must be closed later is left in `resources`."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, not a video file")
    try:
        file = resources.enter_context(path.open("rb"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        container = resources.enter_context(open_container(file))
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(
            f"{path}: not a video", hint="MP4, MOV, Matroska, WebM, AVI, MPEG, GIF and image files can be read"
        ) from error
    return container, video_stream(container, str(path))


def _no_frames(path: Path, n_broken: int = 0) -> IntegrityError:
    if n_broken:
        return IntegrityError(f"{path}: not one frame can be decoded; {n_broken} packets are damaged")
    return IntegrityError(f"{path}: the video has no frames")


def at_rate(fps: float) -> _Wanted:
    """The sampling rule of `open_video` for a rate."""
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


def is_cut_off(end_s: float, announced_s: float) -> bool:
    """Whether a video ends so much earlier than it announced that something is missing."""
    return announced_s - end_s > max(CUT_OFF_S, CUT_OFF_SHARE * announced_s)


def _announced_duration_s(stream: Any) -> float | None:
    """How long the container says that the video is; None where it does not."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    try:  # Matroska: hours:minutes:seconds in a tag
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except (KeyError, ValueError):
        return None
