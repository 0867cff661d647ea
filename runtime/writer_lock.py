"""One writer of a file at a time, among processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from aurora_export.errors import UsageError


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one that writes this file. The lock goes with the process, also when it is killed.

    Raises UsageError if another process writes it, or if nothing can be written there.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        file = lock.open("a")
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        if not _lock(file, lock):
            raise UsageError(f"{path}: another process is writing it", hint="wait for it, or give another file")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _lock(file: IO[str], path: Path) -> bool:
    """Lock an open file until it is closed. Where the system has no such locks: True."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Not one that its last owner has just removed.
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
