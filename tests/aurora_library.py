"""libaurora through ctypes: the C interface (runtime/cpp/include/aurora.h) as any language sees it."""

from __future__ import annotations

import ctypes as c
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

OK, UNEXPECTED, USAGE, INCOMPATIBLE, INTEGRITY, RESOURCES, DEPENDENCY = 0, 1, 2, 3, 4, 6, 7
UNSUPPORTED, BUSY, CANCELLED = 9, 10, 11

LogCallback = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_char_p)
ProgressCallback = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_char_p, c.c_uint64, c.c_uint64)
TextCallback = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_void_p, c.c_size_t)


class ModelOptions(c.Structure):
    """aurora_model_options."""

    _fields_ = [
        ("size", c.c_size_t),
        ("backend", c.c_int32),
        ("device", c.c_int32),
        ("n_threads", c.c_int32),
        ("skip_verification", c.c_int32),
        ("onnxruntime_library", c.c_char_p),
        ("no_native_operators", c.c_int32),
        ("reserved", c.c_int32),
        ("log", LogCallback),
        ("log_user", c.c_void_p),
        ("progress", ProgressCallback),
        ("progress_user", c.c_void_p),
        ("device_name", c.c_char_p),
        ("tensorrt_library", c.c_char_p),
    ]


class Frame(c.Structure):
    """aurora_frame."""

    _fields_ = [
        ("size", c.c_size_t),
        ("data", c.c_void_p * 2),
        ("stride", c.c_ssize_t * 2),
        ("width", c.c_uint32),
        ("height", c.c_uint32),
        ("format", c.c_int32),
        ("colour", c.c_int32),
        ("memory", c.c_int32),
        ("has_time", c.c_int32),
        ("time_s", c.c_double),
        ("cuda_stream", c.c_void_p),
    ]


class WatchOptions(c.Structure):
    """aurora_watch_options."""

    _fields_ = [("size", c.c_size_t), ("prompt", c.c_char_p), ("sampling", c.c_char_p)]


class AskOptions(c.Structure):
    """aurora_ask_options."""

    _fields_ = [
        ("size", c.c_size_t),
        ("max_tokens", c.c_uint32),
        ("top_k", c.c_uint32),
        ("temperature", c.c_double),
        ("top_p", c.c_double),
        ("presence_penalty", c.c_double),
        ("frequency_penalty", c.c_double),
        ("penalty_decay", c.c_double),
        ("seed", c.c_uint64),
        ("stop", c.POINTER(c.c_char_p)),
        ("n_stop", c.c_size_t),
    ]


class Answer(c.Structure):
    """aurora_answer."""

    _fields_ = [
        ("size", c.c_size_t),
        ("end", c.c_int32),
        ("n_tokens", c.c_uint32),
        ("question_s", c.c_double),
        ("answer_s", c.c_double),
    ]


STRUCTS = {
    "aurora_model_options": ModelOptions,
    "aurora_frame": Frame,
    "aurora_watch_options": WatchOptions,
    "aurora_ask_options": AskOptions,
    "aurora_answer": Answer,
}


class LibraryError(Exception):
    """A status that is neither AURORA_OK nor AURORA_CANCELLED."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def load(path: Path) -> c.CDLL:
    """The library, its functions declared."""
    library = c.CDLL(str(path))
    library.aurora_status_name.restype = library.aurora_version.restype = c.c_char_p
    for name in ("model_last_error", "model_info", "session_last_error", "session_info"):
        function = getattr(library, f"aurora_{name}")
        function.restype, function.argtypes = c.c_char_p, [c.c_void_p]
    pointer = c.POINTER(c.c_void_p)
    arguments = {
        "model_open": [c.c_char_p, c.c_void_p, pointer],
        "model_close": [c.c_void_p],
        "session_new": [c.c_void_p, pointer],
        "session_clone": [c.c_void_p, pointer],
        "session_close": [c.c_void_p],
        "session_watch": [c.c_void_p, c.c_void_p, c.c_void_p],
        "session_watch_frames": [c.c_void_p, c.c_void_p, c.c_size_t, c.c_void_p],
        "session_visual_tokens": [c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p],
        "session_logits": [c.c_void_p, c.c_void_p, c.c_void_p],
        "session_ask": [c.c_void_p, c.c_char_p, c.c_void_p, c.c_void_p, c.c_void_p, c.c_void_p],
        "session_reset": [c.c_void_p],
        "session_save": [c.c_void_p, c.c_char_p, c.c_int, c.c_void_p],
        "session_load": [c.c_void_p, c.c_char_p],
        "session_save_to": [c.c_void_p, c.c_void_p, c.c_void_p],
        "session_load_from": [c.c_void_p, c.c_void_p, c.c_size_t],
    }
    for name, types in arguments.items():
        getattr(library, f"aurora_{name}").argtypes = types
    return library


class Model:
    """An open model; use it as a context manager."""

    def __init__(self, library: c.CDLL, bundle: Path, **options: object) -> None:
        self.library, self.handle = library, c.c_void_p()
        given = ModelOptions(size=c.sizeof(ModelOptions), **options)
        status = library.aurora_model_open(str(bundle).encode(), c.byref(given), c.byref(self.handle))
        if status:
            text = library.aurora_model_last_error(self.handle).decode()
            self.close()
            raise LibraryError(status, text)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.library.aurora_model_close(self.handle)
        self.handle = c.c_void_p()

    @property
    def info(self) -> dict[str, object]:
        return json.loads(self.library.aurora_model_info(self.handle))


def frame_of(pixels: np.ndarray, *, time_s: float | None = None, **fields: object) -> Frame:
    """pixels: uint8 (height, width, 3), to be kept as long as the frame is used."""
    height, width = pixels.shape[:2]
    frame = Frame(size=c.sizeof(Frame), width=width, height=height, has_time=time_s is not None, time_s=time_s or 0)
    frame.data[0], frame.stride[0] = pixels.ctypes.data, pixels.strides[0]
    for name, value in fields.items():
        setattr(frame, name, value)
    return frame


def watch_options(prompt: str | None, sampling: str | None) -> object:
    """To be passed on."""
    return c.byref(WatchOptions(c.sizeof(WatchOptions), *(text and text.encode() for text in (prompt, sampling))))


class Session:
    """A session of a model."""

    def __init__(self, model: Model, handle: c.c_void_p | None = None) -> None:
        self.library, self.model, self.handle = model.library, model, handle or c.c_void_p()
        if handle is None:
            self.check(self.library.aurora_session_new(model.handle, c.byref(self.handle)))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, status: int) -> int:
        if status not in (OK, CANCELLED):
            raise LibraryError(status, self.library.aurora_session_last_error(self.handle).decode())
        return status

    def close(self) -> None:
        assert self.library.aurora_session_close(self.handle) == OK
        self.handle = c.c_void_p()

    def clone(self) -> Session:
        other = c.c_void_p()
        self.check(self.library.aurora_session_clone(self.handle, c.byref(other)))
        return Session(self.model, other)

    def watch(
        self,
        pixels: np.ndarray,
        *,
        prompt: str | None = None,
        time_s: float | None = None,
        sampling: str | None = None,
        **fields: object,
    ) -> None:
        """pixels: uint8 (height, width, 3); its rows may have gaps, or go up."""
        frame = frame_of(pixels, time_s=time_s, **fields)
        self.check(self.library.aurora_session_watch(self.handle, c.byref(frame), watch_options(prompt, sampling)))

    def watch_frames(self, frames: Sequence[Frame], *, prompt: str | None = None, sampling: str | None = None) -> None:
        array = (Frame * len(frames))(*frames)
        options = watch_options(prompt, sampling)
        self.check(self.library.aurora_session_watch_frames(self.handle, array, len(frames), options))

    def ask(
        self,
        question: str,
        *,
        on_text: Callable[[str], bool | None] | None = None,
        stop: tuple[str, ...] = (),
        **options: object,
    ) -> str:
        """The pieces joined; on_text may return True to cancel."""
        pieces: list[str] = []

        def take(_: object, text: int, n_bytes: int) -> int:
            pieces.append(c.string_at(text, n_bytes).decode())
            return bool(on_text and on_text(pieces[-1]))

        given = AskOptions(size=c.sizeof(AskOptions), **options)
        given.stop, given.n_stop = (c.c_char_p * len(stop))(*(text.encode() for text in stop)), len(stop)
        self.answer = Answer(size=c.sizeof(Answer))
        callback = TextCallback(take)
        self.status = self.check(
            self.library.aurora_session_ask(
                self.handle, question.encode(), c.byref(given), callback, None, c.byref(self.answer)
            )
        )
        return "".join(pieces)

    @property
    def visual_tokens(self) -> np.ndarray:
        data, n, width = c.POINTER(c.c_float)(), c.c_size_t(), c.c_size_t()
        self.check(self.library.aurora_session_visual_tokens(self.handle, c.byref(data), c.byref(n), c.byref(width)))
        return np.ctypeslib.as_array(data, (n.value, width.value)).copy()

    @property
    def logits(self) -> np.ndarray:
        data, n = c.POINTER(c.c_float)(), c.c_size_t()
        self.check(self.library.aurora_session_logits(self.handle, c.byref(data), c.byref(n)))
        return np.ctypeslib.as_array(data, (n.value,)).copy()

    @property
    def info(self) -> dict[str, object]:
        return json.loads(self.library.aurora_session_info(self.handle))

    def reset(self) -> None:
        self.check(self.library.aurora_session_reset(self.handle))

    def save(self, path: Path, *, packed: bool = False) -> int:
        n_bytes = c.c_uint64()
        self.check(self.library.aurora_session_save(self.handle, str(path).encode(), packed, c.byref(n_bytes)))
        return n_bytes.value

    def load(self, path: Path) -> None:
        self.check(self.library.aurora_session_load(self.handle, str(path).encode()))

    def save_to_bytes(self) -> bytes:
        n_bytes = c.c_size_t()
        self.check(self.library.aurora_session_save_to(self.handle, None, c.byref(n_bytes)))
        buffer = c.create_string_buffer(n_bytes.value)
        self.check(self.library.aurora_session_save_to(self.handle, buffer, c.byref(n_bytes)))
        return buffer.raw[: n_bytes.value]

    def load_from_bytes(self, data: bytes) -> None:
        self.check(self.library.aurora_session_load_from(self.handle, data, len(data)))
