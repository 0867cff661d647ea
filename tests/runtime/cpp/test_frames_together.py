"""Frames watched in one call: the state of one call for each, and what is refused before anything runs."""

from __future__ import annotations

import ctypes as c
import re
import subprocess
import sys

import numpy as np
import pytest

import aurora_library as lib
from aurora_export.runtime.session import Aurora
from aurora_library import LibraryError, Model, Session, frame_of

N = 70
PICTURES = np.random.default_rng(3).integers(0, 256, (N, 48, 64, 3), np.uint8)
NV12 = 1


def frames(n=N):
    """Each with a time of its own; every third is NV12, and one has no time."""
    made = [frame_of(picture, time_s=i / 2) for i, picture in enumerate(PICTURES[:n])]
    for frame, picture in list(zip(made, PICTURES, strict=False))[2::3]:
        frame.format, frame.stride[0] = NV12, 0
        frame.data[1] = picture.ctypes.data + 64 * 48
    made[n // 2].has_time = 0
    return made


def watch_alone(session, made, **options):
    for frame in made:
        session.watch_frames([frame], **options)
        options.pop("prompt", None)


@pytest.mark.parametrize("options", [{}, {"prompt": "What colour is the square?", "sampling": "1 fps"}])
def test_the_state_is_that_of_one_call_for_each(session, model, options):
    with Session(model) as other:
        for n in (1, 2, N):
            session.watch_frames(frames(n), **options)
            watch_alone(other, frames(n), **options)
            options = {}
            assert session.save_to_bytes() == other.save_to_bytes()
            np.testing.assert_array_equal(session.visual_tokens, other.visual_tokens)
        assert session.ask("What is shown?") == other.ask("What is shown?")
        seconds = {"seconds": 0}
        assert session.info | seconds == other.info | seconds


def test_one_frame_is_as_by_watch(session, model):
    with Session(model) as other:
        session.watch_frames([frame_of(PICTURES[0], time_s=0.5)])
        other.watch(PICTURES[0], time_s=0.5)
        assert session.save_to_bytes() == other.save_to_bytes()


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"width": 0}, lib.USAGE, "frames[4]: "),
        ({"stride": (c.c_ssize_t * 2)(191, 0)}, lib.USAGE, "frames[4]: the rows of the pixels have 192 bytes"),
        ({"data": (c.c_void_p * 2)(None, None)}, lib.USAGE, "frames[4]: frame.data[0] is NULL"),
        ({"format": 2}, lib.USAGE, "frames[4]: format is 2"),
        ({"memory": 1}, lib.UNSUPPORTED, "frames[4]: the frame is in the memory of a GPU"),
        ({"size": 0}, lib.USAGE, f"frames[4].size is 0, and that of frames[0] {c.sizeof(lib.Frame)}"),
        ({"size": 72}, lib.USAGE, "frames[4].size is 72, and that of frames[0]"),
    ],
)
def test_a_refused_frame_is_refused_before_anything_ran(session, fields, status, words):
    session.watch(PICTURES[0])
    before, seconds = session.save_to_bytes(), session.info["seconds"]
    made = frames(7)
    for name, value in fields.items():
        setattr(made[4], name, value)
    with pytest.raises(LibraryError, match=re.escape(words)) as error:
        session.watch_frames(made)
    assert error.value.status == status
    assert session.save_to_bytes() == before
    assert session.info["seconds"] == seconds


def test_no_frames_and_a_late_prompt(session):
    with pytest.raises(LibraryError, match="no frames to watch"):
        session.watch_frames([])
    session.watch(PICTURES[0])
    with pytest.raises(LibraryError, match="before the first frame"):
        session.watch_frames(frames(2), prompt="What?")


def test_frames_of_another_header(session, model, library):
    """The size of the first leads to the next: shorter structs of version 1, and longer ones of a later version."""

    class Newer(c.Structure):
        _fields_ = [*lib.Frame._fields_, ("more", c.c_int64)]

    expected = None
    for size in (c.sizeof(lib.Frame), c.sizeof(Newer), lib.Frame.cuda_stream.offset):
        made = frames(5)
        for frame in made:
            frame.size = size
        array = bytearray(b"".join(bytes(frame)[:size].ljust(size, b"\0") for frame in made))
        arguments = session.handle, (c.c_char * len(array)).from_buffer(array), 5, None
        session.reset()
        assert library.aurora_session_watch_frames(*arguments) == lib.OK
        expected = expected or session.save_to_bytes()
        assert session.save_to_bytes() == expected
        if size == c.sizeof(Newer):
            array[-1] = 1
            assert library.aurora_session_watch_frames(*arguments) == lib.USAGE
            assert b"frames[4]: aurora_frame has fields" in library.aurora_session_last_error(session.handle)
    for size in (0, 8, lib.Frame.cuda_stream.offset - 1):
        one = frames(1)[0]
        one.size = size
        assert library.aurora_session_watch_frames(session.handle, c.byref(one), 1, None) == lib.USAGE
        assert f"frames[0].size is {size}".encode() in library.aurora_session_last_error(session.handle)


@pytest.mark.slow  # it builds a bundle
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_frames_that_share_a_run_leave_the_same_bits(library, root, tmp_path, precision):
    bundle = tmp_path / "small.aurora"
    program = [sys.executable, "-m", "aurora_export.cli.main", "build", root / "testbed/checkpoint", "--out", bundle]
    subprocess.run([*program, "--precision", precision, "--quiet"], check=True, capture_output=True)
    with Model(library, bundle) as model, Session(model) as together, Session(model) as alone:
        for n in (N, 3):
            together.watch_frames(frames(n))
            watch_alone(alone, frames(n))
            assert together.save_to_bytes() == alone.save_to_bytes()
        assert together.ask("What is shown?") == alone.ask("What is shown?")
        with Session(model) as rgb, Aurora.open(bundle) as aurora:
            rgb.watch_frames([frame_of(picture) for picture in PICTURES])
            aurora.watch(list(PICTURES))
            for name, array in aurora.state.arrays.items():
                assert array.tobytes() in rgb.save_to_bytes(), name
