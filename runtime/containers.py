"""What FFmpeg may open, through PyAV, and decoded frames as pixels.

A video may come from a stranger. Only the containers of FORMATS are read: play lists and scripts, which make FFmpeg
open other files or addresses, are not among them. A file is read through a file object, never by name, with no
protocol at all; an address with the protocols of its own scheme only, and no redirect is followed.
"""

from __future__ import annotations

from typing import IO, Any

import numpy as np

from aurora_export.errors import DependencyError, IntegrityError

FORMATS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "asf", "flv", "ogg", "mxf", "nut", "ivf"),
    *("h264", "hevc", "m4v", "av1", "obu", "mjpeg", "yuv4mpegpipe", "gif", "apng"),
    *("png_pipe", "jpeg_pipe", "webp_pipe", "bmp_pipe", "tiff_pipe", "ppm_pipe", "pgm_pipe"),
)
"""FFmpeg's names of the containers that are read; an image is a video of one frame."""

MAX_FRAME_PIXELS = 2**26
"""8192 x 8192: a header that announces more is refused before its frames are decoded."""


def open_container(
    source: IO[bytes] | str,
    *,
    formats: tuple[str, ...] = FORMATS,
    protocols: tuple[str, ...] = (),
    device: str | None = None,
    timeout_s: float | None = None,
    options: dict[str, str] | None = None,
) -> Any:
    """A PyAV container; close it.

    source: a file object, or an address with the protocols that it needs. device: FFmpeg's name of a capture device's
    format. timeout_s: of opening and of each read. Raises DependencyError (no PyAV), or one of `container_errors`.
    """
    av = load_library()
    # A capture device is no container in a file: it needs no protocol, and its format is the one that is named.
    allowed = {
        "format_whitelist": device or ",".join(formats),
        "protocol_whitelist": ",".join(protocols) or "none",
        **(options or {}),
    }
    return av.open(source, format=device, container_options=allowed, timeout=timeout_s)


def video_stream(container: Any, name: str) -> Any:
    """The stream that is watched, its decoder set up. Raises IntegrityError if there is none, or one too large."""
    av = load_library()
    streams = [stream for stream in container.streams.video if not _is_cover(av, stream)]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        raise IntegrityError(f"{name}: has no video stream, only {', '.join(kinds)}")
    stream = streams[0]
    n_pixels = stream.codec_context.width * stream.codec_context.height
    if n_pixels > MAX_FRAME_PIXELS:
        raise IntegrityError(f"{name}: frames of {n_pixels} pixels, over the limit of {MAX_FRAME_PIXELS}")
    # The size may change in mid-stream: then the decoder refuses what is too large.
    stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    # Not frame by frame in threads: after a damaged packet that loses frames that can be decoded.
    stream.thread_type = "SLICE"
    return stream


def container_errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for a container that cannot be opened or read on."""
    return (load_library().error.FFmpegError, OSError, ValueError, EOFError)


def load_library() -> Any:
    """The av module. Raises DependencyError with the command that installs it."""
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


class ToPixels:
    """Decoded frames to upright RGB arrays."""

    def __init__(self) -> None:
        av = load_library()
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
