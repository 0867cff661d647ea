"""What was measured about a model with some of its groups quantized, kept in a file, so that a long search can go on.

One JSON object a line. The first says what the numbers belong to: model, scales, recipe, questions; numbers of
anything else are refused. A line that a kill cut short is measured again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aurora_export.calibration.gate import Loss
from aurora_export.errors import IntegrityError, UsageError


class Evaluations:
    """Losses by what was quantized and over how many questions; in memory, and in a file if one is given."""

    def __init__(self, path: Path | None, identity: Mapping[str, str]) -> None:
        """Read what is known, or begin a file.

        identity: what the numbers depend on.  Raises UsageError for a file of something else or in no folder,
        IntegrityError for one that is no such file.
        """
        self._path, self._known = path, dict[tuple[int, frozenset[str]], Loss]()
        self.n_measured = 0
        """evaluations that were not known before"""
        if path is None:
            return
        if path.exists():
            self._read(path, dict(identity))
        else:
            try:
                path.write_text(json.dumps({"identity": dict(identity)}) + "\n", encoding="utf-8")
            except OSError as error:
                raise UsageError(f"{path}: cannot be written: {error.strerror}", hint="choose another file") from error

    def _read(self, path: Path, identity: dict[str, str]) -> None:
        hint = "remove it, or choose another file"
        try:
            text = path.read_text(encoding="utf-8")
            whole, _, rest = text.rpartition("\n")
            head, *rows = [json.loads(line) for line in whole.splitlines()]
            found = dict(head["identity"])
            self._known = {(row["questions"], frozenset(row["quantized"])): Loss(**row["loss"]) for row in rows}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise IntegrityError(f"{path}: no file of evaluations: {error}", hint=hint) from error
        if different := [name for name in identity if found.get(name) != identity[name]]:
            raise UsageError(f"{path}: is of another {' and another '.join(different)}", hint=hint)
        if rest:
            path.write_text(f"{whole}\n", encoding="utf-8")

    def get(self, quantized: Collection[str], n_questions: int) -> Loss | None:
        """What is known."""
        return self._known.get((n_questions, frozenset(quantized)))

    def add(self, quantized: Collection[str], n_questions: int, loss: Loss) -> None:
        """Keep a loss, on the disk when this returns."""
        self._known[n_questions, frozenset(quantized)] = loss
        self.n_measured += 1
        if self._path is None:
            return
        row: dict[str, Any] = {"questions": n_questions, "quantized": sorted(quantized), "loss": asdict(loss)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
