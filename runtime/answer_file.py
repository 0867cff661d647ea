"""The answers of a batch, a JSON object a line: appended to as videos are finished, and read to go on after a stop."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aurora_export.errors import IntegrityError, ResourceError, UsageError
from aurora_export.runtime.batch import Known, Row, VideoResult
from aurora_export.runtime.writer_lock import locked

_log = logging.getLogger(__name__)


class AnswerFile:
    """Rows of one setting; those of others may be in the same file and are left alone."""

    def __init__(self, path: Path, settings: str) -> None:
        """Read what is there; see `opened`."""
        self._path, self._settings = path, settings
        self._answers: dict[str, dict[str, Row]] = {}
        self._written: set[tuple[str, str, str]] = set()
        for row in self._read():
            self._note(row)

    @property
    def known(self) -> Known:
        """Questions that are answered, by the digest of the video."""
        return {digest: frozenset(rows) for digest, rows in self._answers.items()}

    def add(self, result: VideoResult, questions: Iterable[str]) -> int:
        """Append what is new about a video, flushed to disk. Returns the number of answers that were known before.

        The answers of a video that was known under another name are repeated under this one. Raises ResourceError
        (disk full).
        """
        answers = self._answers.get(result.digest or "", {})
        rows = [{**row, "settings": self._settings} for row in result.rows if row.get("question") not in answers]
        repeated = []
        for question in questions:
            row = answers.get(question)
            if row is not None and result.error is None:
                repeated.append({**row, "video": result.video})
        fresh = [row for row in repeated if (row["video"], row["digest"], row["question"]) not in self._written]
        self._append([*fresh, *rows])
        for row in (*fresh, *rows):
            self._note(row)
        return len(repeated)

    def _note(self, row: Row) -> None:
        if row.get("settings") == self._settings and "error" not in row:
            self._answers.setdefault(row["digest"], {}).setdefault(row["question"], row)
            self._written.add((row["video"], row["digest"], row["question"]))

    def _append(self, rows: list[Row]) -> None:
        if not rows:
            return
        data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("ab", buffering=0) as file:
                n_written = file.write(data)
                if n_written != len(data):
                    raise OSError(f"{n_written} of {len(data)} bytes were written")
                os.fsync(file.fileno())
        except OSError as error:
            if self._path.exists():
                os.truncate(self._path, size)
            raise ResourceError(
                f"{self._path}: cannot be written: {error.strerror or error}",
                hint="what was written before is whole; make room, and run the same command again",
            ) from error

    def _read(self) -> Iterator[Row]:
        """All rows; a last line that is not whole, of a run that was killed, is cut off."""
        if not self._path.exists():
            return
        whole = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                yield self._row(line, number)
                whole += len(line)
        if whole < self._path.stat().st_size:
            _log.warning("%s: its last line is not whole, and is written again", self._path)
            os.truncate(self._path, whole)

    def _row(self, line: bytes, number: int) -> Row:
        try:
            row: Any = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        needed = {"video": str, "digest": str | None, "settings": str}
        is_row = isinstance(row, dict) and all(isinstance(row.get(key), kind) for key, kind in needed.items())
        if not is_row or not ("error" in row or isinstance(row.get("question"), str)):
            raise IntegrityError(
                f"{self._path}, line {number}: is no answer of a batch",
                hint="give another file; this one is left alone",
            )
        return row


@contextmanager
def opened(path: Path, settings: str) -> Iterator[AnswerFile]:
    """The answers at a path, for one writer.

    Raises UsageError (not writable, written by another process) or IntegrityError (another kind of file).
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder", hint="give a file, as in --out answers.jsonl")
    with locked(path):
        yield AnswerFile(path, settings)
