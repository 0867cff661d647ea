"""What all tests share; fixtures of one area live in tests/<folder>/conftest.py."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A shell starts what runs in its background with Ctrl-C ignored, programs inherit that, and the tests of an interrupted
# command would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _files_not_ignored(folder: Path, patterns: list[str]) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        if path.is_dir():
            yield from _files_not_ignored(path, patterns)
        else:
            yield path


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def tree() -> list[Path]:
    """Every file of the repository that .gitignore does not name, relative to its root; needs no git."""
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    patterns = [".git", *(line.rstrip("/") for line in lines if line and not line.startswith("#"))]
    return [path.relative_to(ROOT) for path in _files_not_ignored(ROOT, patterns)]
