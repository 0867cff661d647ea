"""Questions about videos, as a file of JSON lines: what the accuracy of a bundle is measured on.

    {"video": "clips/a.mp4", "prompt": "How many objects appear?", "answer": "two"}

Paths are relative to the file. `answer` is the one that is right, whole; without answers a bundle is compared with
another one's. `kind` is any word, by which results are told apart. Lines of one video stand anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aurora_export.errors import UsageError
from aurora_export.manifest import hash_file

KEYS = {"video": True, "prompt": True, "answer": False, "kind": False}
"""Key of a line -> whether it must be there."""

EXAMPLE = '{"video": "clip.mp4", "prompt": "What is this?", "answer": "a cat"}'
MAX_LINE_CHARACTERS = 2**20


@dataclass(frozen=True)
class Question:
    """One line."""

    video: str
    """full path"""
    prompt: str
    answer: str | None = None
    kind: str = ""


@dataclass(frozen=True)
class Questions:
    """The content of one file, its lines in the order of their videos' first lines."""

    questions: tuple[Question, ...]
    digest: str
    """SHA-256 of the file"""

    @property
    def has_answers(self) -> bool:
        """Whether the right answers are known."""
        return self.questions[0].answer is not None

    @property
    def videos(self) -> dict[str, list[Question]]:
        """Video -> its questions, both in order."""
        return by_video(self.questions)


def by_video(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Video -> its questions, both in the order of their first lines."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.video, []).append(question)
    return found


def read_questions(path: Path) -> Questions:
    """Read and check a file; no video is opened.

    Raises UsageError that names the line: no such file, no questions, not the JSON of EXAMPLE, a video that is not
    there, a question that stands twice, or answers for some questions only.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file", hint=f"one question a line: {EXAMPLE}")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    read: list[Question] = []
    seen: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question = _question_of(path, number, line)
        first = seen.setdefault((question.video, question.prompt), number)
        if first != number:
            raise UsageError(f"{path}, line {number}: stands in line {first} already", hint="leave one out")
        if read and (question.answer is None) != (read[0].answer is None):
            has, others = ("has no answer", "have") if question.answer is None else ("has an answer", "have none")
            raise UsageError(
                f"{path}, line {number}: {has}, and those before it {others}", hint="give all answers, or none"
            )
        read.append(question)
    if not read:
        raise UsageError(f"{path}: has no questions", hint=f"one a line: {EXAMPLE}")
    ordered = tuple(question for same in by_video(read).values() for question in same)
    return Questions(ordered, hash_file(path).sha256)


def _question_of(path: Path, number: int, line: str) -> Question:
    where = f"{path}, line {number}"
    hint = f"one question a line: {EXAMPLE}"
    if len(line) > MAX_LINE_CHARACTERS:
        raise UsageError(f"{where}: {len(line)} characters, over the limit of {MAX_LINE_CHARACTERS}", hint=hint)
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}", hint=hint) from error
    if not isinstance(content, dict):
        raise UsageError(f"{where}: expected an object, found {type(content).__name__}", hint=hint)
    if missing := [key for key, is_needed in KEYS.items() if is_needed and key not in content]:
        raise UsageError(f"{where}: has no {' and no '.join(missing)}", hint=hint)
    if unknown := sorted(set(content) - set(KEYS)):
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; keys are {', '.join(KEYS)}", hint=hint)
    for key, value in content.items():
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where}: {key} is {value!r}, expected a text", hint=hint)
    try:
        video = (path.parent / content["video"]).absolute()
        is_there = video.is_file()
    except ValueError as error:  # a NUL in the path
        raise UsageError(f"{where}: {content['video']!r} is no path: {error}", hint=hint) from error
    if not is_there:
        raise UsageError(f"{where}: {video}: no such video", hint="paths are relative to the file of questions")
    return Question(**{**content, "video": str(video)})
