"""A folder that appears whole or not at all, in place of an older one that stays until the last moment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL, OLD = "partial", "old"
"""Kinds of hidden folders beside the target: `.NAME.partial-PID` is being written, `.NAME.old-PID` is replaced."""


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A new empty folder beside `target`, which takes its place when the block ends without an exception.

    Otherwise, be it Ctrl-C or a full disk, the new folder is removed and `target` is as it was.
    Leftovers of processes that were killed are removed first. Raises OSError as the file system does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target)
    folder = _beside(target, PARTIAL)
    try:
        folder.mkdir()
        yield folder
        _flush(folder)
        _exchange(folder, target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _beside(target: Path, kind: str) -> Path:
    return target.parent / f".{target.name}.{kind}-{os.getpid()}"


def _exchange(folder: Path, target: Path) -> None:
    """Rename the old folder aside and the new one in; nothing else can be done in between."""
    aside = _beside(target, OLD)
    try:
        if target.exists():
            target.rename(aside)
        folder.rename(target)
        _flush_entry(target.parent)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    finally:
        if target.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(target: Path) -> None:
    """Remove what killed processes left; if one died between its two renames, put the old folder back."""
    for path in target.parent.iterdir():
        for kind in (PARTIAL, OLD):
            pid = path.name.removeprefix(f".{target.name}.{kind}-")
            if pid == path.name or not pid.isdigit() or path.is_symlink() or _is_running(int(pid)):
                continue
            if kind == OLD and not target.exists():
                path.rename(target)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    if pid == os.getpid():
        return False  # this process begins only now: a leftover of another one that had the same number
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _flush(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for path in (*folder.rglob("*"), folder):
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
