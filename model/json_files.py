"""Reads the JSON files that lie beside weights: they are small, and they are not trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aurora_export.errors import IntegrityError

MAX_JSON_BYTES = 64 * 2**20
"""Far over any real one; the index of a checkpoint of thousands of tensors has less than 1 MiB."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises IntegrityError that names the file if it is anything else."""
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise IntegrityError(f"{path} has {size} bytes; a JSON file of a checkpoint has at most {MAX_JSON_BYTES}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is not JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path} holds a JSON {type(content).__name__}, not an object")
    return content
