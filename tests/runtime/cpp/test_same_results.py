"""The C++ runtime beside the Python one, on the testbed's model: answers, logits, tokens and states."""

from __future__ import annotations

import json

import numpy as np
import pytest

from aurora_export.runtime.state import State
from aurora_export.sampling import SamplingOptions
from aurora_library import Session

LOGITS_LIMIT = 1e-5
"""Largest difference of a logit, relative to the largest logit."""


def read(aurora, session, frames, **options):
    """Let both watch the same frames."""
    aurora.watch(frames, **options)
    for frame in frames:
        session.watch(frame, **options)
        options = {}


def same_logits(aurora, session):
    ours, theirs = session.logits, np.asarray(aurora._loop._logits[0])
    assert np.abs(ours - theirs).max() <= LOGITS_LIMIT * np.abs(theirs).max()
    return np.array_equal(ours, theirs)


def questions(root):
    return json.loads((root / "testbed/clips/questions.json").read_text())


@pytest.mark.parametrize("clip", ["two_shapes.mp4", "three_shapes.mp4"])
def test_every_answer_of_the_testbed_and_the_logits_behind_it(root, aurora, session, clip_frames, clip):
    read(aurora, session, clip_frames(clip))
    rows = [row for row in questions(root) if row["clip"] == clip]
    assert len(rows) >= 4
    for row in rows:
        with session.clone() as other:
            fork = aurora.fork()
            assert other.ask(row["question"]) == "".join(fork.ask(row["question"]))
            assert other.answer.n_tokens == fork.stats.n_answer_tokens
            assert same_logits(fork, other)
            assert other.ask(row["question"]).strip() == "".join(fork.ask(row["question"])).strip()  # a further turn


def test_primed_question_second_video_and_header(aurora, session, clip_frames):
    frames = clip_frames("two_shapes.mp4")[:3]
    read(aurora, session, frames, prompt="What is the colour of the square?")
    assert session.ask("Which way?") == "".join(aurora.ask("Which way?"))
    read(aurora, session, frames[::-1])
    same_logits(aurora, session)
    ours = session.info
    for name, value in aurora.header.model_dump(exclude={"format_version", "sampling"}).items():
        assert ours[name] == value, name


def test_visual_tokens_are_equal(aurora, session, clip_frames):
    watched = []
    frames = clip_frames("three_shapes.mp4")[:5]
    aurora.watch(frames, on_frame=watched.append)
    for frame, expected in zip(frames, watched, strict=True):
        session.watch(frame)
        np.testing.assert_array_equal(session.visual_tokens, expected.visual_tokens)


def test_rows_with_gaps_and_rows_that_go_up(session, model, clip_frames):
    frame = clip_frames("two_shapes.mp4")[0]
    wide = np.zeros((frame.shape[0], frame.shape[1] + 7, 3), np.uint8)
    wide[:, : frame.shape[1]] = frame
    session.watch(frame)
    expected = session.visual_tokens
    for view in (wide[:, : frame.shape[1]], np.ascontiguousarray(frame[::-1])[::-1]):
        with Session(model) as other:
            other.watch(view)
            np.testing.assert_array_equal(other.visual_tokens, expected)


SAMPLED = [
    {"temperature": 1.0, "seed": 7},
    {"temperature": 60.0, "top_p": 0.95, "seed": 8},
    {"temperature": 0.7, "top_p": 0.8, "seed": 2**63 + 5},
    {"temperature": 1.3, "top_k": 5, "presence_penalty": 0.4, "frequency_penalty": 0.3, "seed": 1},
]


@pytest.mark.parametrize("options", SAMPLED)
def test_drawn_answers(aurora, session, clip_frames, options):
    read(aurora, session, clip_frames("two_shapes.mp4")[:2])
    ours = session.ask("How many objects appear?", max_tokens=40, **options)
    theirs = "".join(aurora.ask("How many objects appear?", max_tokens=40, options=SamplingOptions(**options)))
    assert ours == theirs
    assert len(ours) > 3


def test_stop_texts(aurora, session, clip_frames):
    read(aurora, session, clip_frames("two_shapes.mp4")[:4])
    whole = "".join(aurora.fork().ask("Which object appeared first?"))
    stop = whole[2:4]
    assert session.ask("Which object appeared first?", stop=(stop,)) == "".join(
        aurora.ask("Which object appeared first?", stop=(stop,))
    )
    assert session.answer.end == 1


@pytest.mark.parametrize("packed", [False, True])
def test_a_state_goes_from_python_to_cpp_and_back(aurora, session, model, opened, clip_frames, tmp_path, packed):
    frames = clip_frames("three_shapes.mp4")
    aurora.watch(frames[:4])
    aurora.save(tmp_path / "python.aurstate", packed=packed)
    session.load(tmp_path / "python.aurstate")
    for frame in frames[4:6]:
        session.watch(frame, sampling="as given")
    n_bytes = session.save(tmp_path / "cpp.aurstate", packed=packed)
    assert n_bytes == (tmp_path / "cpp.aurstate").stat().st_size

    aurora.watch(frames[4:6])
    back = opened.fork()
    back.load(tmp_path / "cpp.aurstate")
    expected = aurora.header.model_copy(update={"parent_digest": back.header.parent_digest})
    assert back.header == expected
    assert (
        back.header.parent_digest
        == State.load(
            tmp_path / "python.aurstate", opened.manifest.config, fingerprint=opened.header.fingerprint
        ).digest
    )
    for name, array in back.state.arrays.items():
        np.testing.assert_array_equal(array, aurora.state.arrays[name])
    question = "How many objects appear?"
    with Session(model) as other:
        other.load_from_bytes(session.save_to_bytes())
        assert other.ask(question) == "".join(back.ask(question)) == session.ask(question)


def test_interrupted_equals_uninterrupted(session, model, clip_frames):
    frames = clip_frames("two_shapes.mp4")[:6]
    with Session(model) as whole:
        for frame in frames:
            whole.watch(frame)
        for frame in frames[:3]:
            session.watch(frame)
        with session.clone() as other:
            for frame in frames[3:]:
                other.watch(frame)
            assert other.save_to_bytes() == whole.save_to_bytes()
        session.reset()
        assert session.info["phase"] == "empty"
        for frame in frames:
            session.watch(frame)
        assert session.save_to_bytes() == whole.save_to_bytes()
