"""Answers as they are shown, and as objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from aurora_export.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from aurora_export.runtime.session import Aurora
    from aurora_export.sampling import SamplingOptions

MAX_LIST_BYTES = 64 * 2**20


def without_leading_space(pieces: Iterable[str]) -> Iterator[str]:
    """The same text from its first character on: World models begin an answer with a space, which no one asked for."""
    begun = False
    for piece in pieces:
        shown = piece if begun else piece.lstrip()
        begun = begun or bool(shown)
        if shown:
            yield shown


def print_answer(aurora: Aurora, question: str, *, options: SamplingOptions, max_tokens: int) -> None:
    """Ask, and write the answer to stdout as it comes, a line in the end."""
    try:
        for piece in without_leading_space(aurora.ask(question, options=options, max_tokens=max_tokens)):
            click.echo(piece, nl=False)
    finally:
        click.echo()


def answer_object(aurora: Aurora, question: str, *, options: SamplingOptions, max_tokens: int) -> dict[str, Any]:
    """Ask, and return question, answer and why it ended. `aurora` moves on: give a fork."""
    n_before = aurora.stats.n_answer_tokens
    answer = "".join(without_leading_space(aurora.ask(question, options=options, max_tokens=max_tokens)))
    return {
        "question": question,
        "answer": answer,
        "answer_end": aurora.stats.answer_end,
        "n_answer_tokens": aurora.stats.n_answer_tokens - n_before,
    }


def all_questions(given: Iterable[str], file: Path | None) -> list[str]:
    """Questions of the command line, then those of a file, one a line; blank lines are left out.

    Raises UsageError if there is none, or if the file cannot be read.
    """
    found = list(given)
    if file is not None:
        in_file = lines_of_file(file)
        if not in_file:
            raise UsageError(f"{file}: holds no question", hint="write one question a line")
        found += in_file
    if not found:
        raise UsageError("no question", hint="give one or more, or --questions FILE with one a line")
    for question in found:
        if not question.strip():
            raise UsageError("the question is empty", hint="say what you want to know about the video")
    return found


def lines_of_file(file: Path) -> list[str]:
    """Lines of a text file that are not blank; `-` is stdin. Raises UsageError if it cannot be read."""
    return [line.strip() for line in _read_text(file).splitlines() if line.strip()]


def _read_text(file: Path) -> str:
    """A text file's content, at most MAX_LIST_BYTES."""
    try:
        with click.open_file(str(file), "rb") as stream:
            data = stream.read(MAX_LIST_BYTES + 1)
        if len(data) > MAX_LIST_BYTES:
            raise UsageError(f"{file}: over {MAX_LIST_BYTES >> 20} MiB, the limit of a list")
        return str(data.decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: byte {error.start} is not UTF-8", hint="save it as UTF-8 text") from error
