from __future__ import annotations

import json

import pytest

from aurora_export.calibration.questions import read_questions
from aurora_export.errors import UsageError


@pytest.fixture
def listed(tmp_path):
    """Writes lines to a file beside a.mp4 and b.mp4."""
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()

    def write(*lines):
        path = tmp_path / "questions.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return path

    return write


def line(video="a.mp4", prompt="What?", **more):
    return {"video": video, "prompt": prompt, **more}


def test_questions_of_one_video_stand_together(listed, tmp_path):
    path = listed(line(answer="x"), line("b.mp4", answer="y"), "", line(prompt="Who?", answer="z", kind="odd"))
    read = read_questions(path)
    assert [(q.prompt, q.answer, q.kind) for q in read.questions] == [
        ("What?", "x", ""),
        ("Who?", "z", "odd"),
        ("What?", "y", ""),
    ]
    assert list(read.videos) == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert read.has_answers
    assert not read_questions(listed(line())).has_answers


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "has no questions"),
        ([line(), "{"], "line 2: not JSON"),
        (["[" * 100_000], "line 1: not JSON"),
        (["[1]"], "line 1: expected an object, found list"),
        ([{"video": "a.mp4"}], "line 1: has no prompt"),
        ([line(speed=2)], "line 1: unknown key 'speed'"),
        ([line(answer="")], "line 1: answer is '', expected a text"),
        ([line(prompt=7)], "line 1: prompt is 7, expected a text"),
        ([line(), line("c.mp4")], "line 2: .*c.mp4: no such video"),
        ([line("a\0.mp4")], "no path|no such video"),
        ([line(), line(prompt="Who?"), line()], "line 3: stands in line 1 already"),
        ([line(answer="x"), line("b.mp4")], "line 2: has no answer, and those before it have"),
        ([line(), line("b.mp4", answer="x")], "line 2: has an answer, and those before it have none"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(listed, lines, message):
    with pytest.raises(UsageError, match=message):
        read_questions(listed(*lines))


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_questions(tmp_path / "none.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read as UTF-8"):
        read_questions(tmp_path / "binary")
