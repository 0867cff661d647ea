"""Rows of a benchmark that takes long, kept in a file as they are measured: an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Rows:
    """Key -> row, of those that were measured under the same circumstances."""

    def __init__(self, path: Path | None, identity: Mapping[str, str]) -> None:
        """path: the file, read if it exists and appended to; None: nothing is kept.

        identity: what a row is of: the commit, digests of the inputs. Lines of another one are passed over.
        """
        self._path, self._identity = path, dict(identity)
        self._rows: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._rows = {line["key"]: line["row"] for line in lines if {**line, **self._identity} == line}

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def add(self, key: str, row: dict[str, Any]) -> None:
        """Keep a row."""
        self._rows[key] = row
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**self._identity, "key": key, "row": row}) + "\n")
