from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice

import pytest

from aurora_export.runtime.session import Aurora
from aurora_export.runtime.video import open_video
from handmade_bundle import write_bundle
from handmade_video import write_video

TOKENS = ("--max-tokens", 9)


@pytest.fixture(scope="module")
def state(bundle, clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("state") / "clip.aurstate"
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.watch(clip)
        aurora.save(path)
    return path


@pytest.fixture
def expected(bundle, state):
    """Answers by the Python API, each on a fork of the state, or all in one conversation."""

    def answers(*questions, turns=False):
        with Aurora.open(bundle, threads=1) as aurora:
            aurora.load(state)
            return [
                "".join((aurora if turns else aurora.fork()).ask(question, max_tokens=9)).lstrip()
                for question in questions
            ]

    return answers


def test_one_question_is_text(bundle, state, invoke, expected):
    before = state.read_bytes()
    result = invoke("ask", bundle, state, "What moves?", *TOKENS)
    assert (result.stdout, result.stderr) == (expected("What moves?")[0] + "\n", "")
    assert state.read_bytes() == before
    assert os.listdir(state.parent) == [state.name]


def test_several_questions_are_objects(bundle, state, tmp_path, invoke, expected):
    questions = ["What moves?", "Which colour?", "How many?", "What moves?"]
    (tmp_path / "q.txt").write_text("How many?\r\n\n  What moves?  \n", encoding="utf-8-sig")
    result = invoke("ask", bundle, state, *questions[:2], "--questions", tmp_path / "q.txt", *TOKENS)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [entry["question"] for entry in found] == questions
    assert [entry["answer"] for entry in found] == expected(*questions)
    assert found[0] == {
        "question": "What moves?",
        "answer": found[3]["answer"],
        "answer_end": "length",
        "n_answer_tokens": 9,
        "position_s": 2.0,
        "frames_seen": 3,
    }


def test_one_object(bundle, state, invoke, expected):
    result = invoke("ask", bundle, state, "What moves?", "--json", *TOKENS)
    assert json.loads(result.stdout)["answer"] == expected("What moves?")[0]


def test_questions_from_stdin(bundle, state, expected):
    command = [sys.executable, "-m", "aurora_export", "ask", bundle, state, "--questions", "-", "--max-tokens", "9"]
    process = subprocess.run(command, input="What moves?\nHow many?\n", capture_output=True, text=True, check=True)
    answers = [json.loads(line)["answer"] for line in process.stdout.splitlines()]
    assert answers == expected("What moves?", "How many?")


def test_at_a_time(bundle, tmp_path, invoke):
    video = write_video(tmp_path / "long.mp4", 120, rate=2)
    path = tmp_path / "cam.aurstate"
    invoke("ingest", bundle, video, "--out", path, "--every", "20s")

    def asked(*flags):
        return json.loads(invoke("ask", bundle, path, "What?", "--json", *TOKENS, *flags).stdout)

    whole, early = asked(), asked("--at", "0:39")
    assert (whole["position_s"], early["position_s"]) == (59, 20)
    assert asked("--at", "40")["position_s"] == 40
    assert asked("--at", "2h") == whole
    with Aurora.open(bundle, threads=1) as aurora:
        with open_video(video) as frames:
            aurora.watch(list(islice(frames, 21)))
        assert "".join(aurora.ask("What?", max_tokens=9)).lstrip() == early["answer"]
    result = invoke("ask", bundle, path, "What?", "--at", "0:19")
    assert result.exit_code == 2
    assert "cam.timeline: no checkpoint at or before 19 s" in result.stderr
    assert "as of 0:20" in invoke("ask", bundle, path, "What?", "--at", "25s", *TOKENS).stderr


def test_refusals(bundle, state, tmp_path, refused):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert refused("ask", bundle, state, "--questions", empty) == (f"{empty}: holds no question", 2)
    assert refused("ask", bundle, state) == ("no question", 2)
    assert refused("ask", bundle, state, "a?", " ") == ("the question is empty", 2)
    assert refused("ask", bundle, state, "--questions", "no.txt")[0].startswith("no.txt: cannot be read: No such file")
    assert refused("ask", bundle, state, "--questions", tmp_path / "bytes.txt")[0].endswith("byte 0 is not UTF-8")
    assert refused("ask", bundle, "no.aurstate", "a?") == ("no.aurstate: no such state file", 2)
    assert refused("ask", "no.aurora", state, "a?") == ("no.aurora: no such bundle", 2)
    assert refused("ask", bundle, state, "a?", "--max-tokens", 0)[1] == 2
    message, code = refused("ask", write_bundle(tmp_path / "o.aurora", seed=1), state, "a?")
    assert (message.startswith(f"{state}: state of the model "), code) == (True, 3)
    cut = tmp_path / "cut.aurstate"
    cut.write_bytes(state.read_bytes()[:-5])
    message, code = refused("ask", bundle, cut, "a?")
    assert message.startswith(f"{cut}: not a valid state file: its tensors need 384 bytes, the file has 379")
    assert code == 4


def chat(bundle, state, text, *flags):
    command = [sys.executable, "-m", "aurora_export", "chat", bundle, state, "--max-tokens", "9", *map(str, flags)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_chat_on_a_pipe(bundle, state, tmp_path, expected):
    questions = ("What moves?", "And then?")
    text = "What moves?\n\nAnd then?\n/reset\nWhat moves?\n/quit\nnever read\n"
    process = chat(bundle, state, text, "--save", tmp_path / "after.aurstate")
    assert process.returncode == 0
    assert process.stderr == ""
    answers = [*expected(*questions, turns=True), *expected(questions[0])]
    assert process.stdout.splitlines() == "\n".join(answers).splitlines()
    with Aurora.open(bundle, threads=1) as aurora:
        aurora.load(tmp_path / "after.aurstate")
        assert aurora.phase == "answered"
        assert "".join(aurora.ask("And then?", max_tokens=9)).lstrip() == expected(*questions, turns=True)[1]


def test_chat_about_nothing(bundle, state):
    process = chat(bundle, state, "")
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


@pytest.fixture
def terminal():
    """A pseudo-terminal: what the program sees, and what a person types and reads."""
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals, which this system has not")
    person, program = pty.openpty()
    yield person, program
    os.close(person)


def test_chat_at_a_terminal(bundle, state, terminal, expected):
    """Ctrl-C cuts an answer short and the conversation goes on; Ctrl-D ends it."""
    person, program = terminal
    command = [sys.executable, "-m", "aurora_export", "chat", bundle, state, "--max-tokens", "100000000"]
    with subprocess.Popen(
        command, stdin=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        os.close(program)
        os.write(person, b"What moves?\n")
        first = process.stdout.read(4)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        os.write(person, b"/reset\nWhat moves?\n")
        stderr = b""
        while b"cut short" not in stderr:
            piece = os.read(process.stderr.fileno(), 1)
            assert piece, f"it ended after {stderr!r}"
            stderr += piece
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        os.write(person, b"\x04")
        _, rest = process.communicate(timeout=30)
    assert process.returncode == 0
    assert expected("What moves?")[0].encode().startswith(first)
    assert b"3 frames, up to 0:02; /reset: forget the conversation" in stderr
    assert (stderr + rest).count(b"cut short") == 2
    assert b"Traceback" not in rest
