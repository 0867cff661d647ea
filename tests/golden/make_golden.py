"""Writes the golden files that the tests of both languages read: what Python makes of inputs that C++ can make too.

python tests/golden/make_golden.py     (tests/test_golden.py fails while a file is stale)

Inputs come from integer arithmetic or from SplitMix64, never from a library's random numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.append(str(FOLDER.parent))  # what tests and golden files are both made of

import golden_frames  # noqa: E402
import golden_manifest  # noqa: E402
import golden_sampling  # noqa: E402
import golden_states  # noqa: E402
import golden_text  # noqa: E402
import golden_tokenizer  # noqa: E402

MAKERS: dict[str, Callable[[], Any]] = {
    "frames.json": golden_frames.cases,
    "manifest.json": golden_manifest.cases,
    "sampling.json": golden_sampling.cases,
    "states.json": golden_states.cases,
    "text.json": golden_text.cases,
    "tokenizer.json": golden_tokenizer.cases,
    "vocabulary.txt": golden_tokenizer.vocabulary_text,
}
"""File -> what makes its content: text, or anything that JSON can hold."""


def content_of(name: str) -> str:
    """What the file should hold."""
    content = MAKERS[name]()
    return content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for file in ("vocabulary.txt", *MAKERS):
        (FOLDER / file).write_text(content_of(file), encoding="utf-8", newline="")
    golden_states.write_files(FOLDER / "states")
