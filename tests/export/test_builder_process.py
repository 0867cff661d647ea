"""A builder in a process of its own: what it says is passed on, and how it ends."""

from __future__ import annotations

import sys

import pytest

from aurora_export.errors import IncompatibleError
from aurora_export.export.builder_process import run_builder


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a program in the place of a builder."""

    def builder(program: str, **options):
        (tmp_path / "stand_in_builder.py").write_text(program, encoding="utf-8")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        job = {"onnx": str(tmp_path / "vision.onnx"), "compute_capabilities": ["8.6"]}
        return run_builder(job, program="stand_in_builder", library="TensorRT", **options)

    return builder


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("print('{\"version\": \"9\", \"errors\": [\"no FP8\", \"here\"]}')", r"9 refuses it for 8\.6: no FP8 / here"),
        ("import os; os.write(2, b'plugin\\n'); os.abort()", "ended with SIGABRT: plugin"),
        ("raise SystemExit('lost')", "ended with exit 1: lost"),
    ],
)  # fmt: skip
def test_what_the_builder_says_is_passed_on(run, program, reason):
    with pytest.raises(IncompatibleError, match=rf"vision\.onnx: .*TensorRT .*{reason}"):
        run(program)


def test_progress_comes_while_it_builds(run):
    program = """
import json, os, sys
job = json.load(sys.stdin)
for text in ("parse", "build: 1 of 2"):
    print(json.dumps({"progress": text}), flush=True)
print("a line of some library")
print(json.dumps({"version": os.environ["WORD"], "onnx": job["onnx"]}))
"""
    said: list[str] = []
    answer = run(program, say=said.append, environment={"WORD": "11.4"})
    assert said == ["parse", "build: 1 of 2"]
    assert answer["version"] == "11.4"
    assert answer["onnx"].endswith("vision.onnx")


def test_a_process_is_not_left_behind(run):
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    program = "import json, time; print(json.dumps({'progress': 'x'}), flush=True); time.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        run(program, say=interrupt)
    assert sys.exc_info() == (None, None, None)
