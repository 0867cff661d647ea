"""A file that takes for ever to read, so that a process can be stopped while it reads."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

N_BYTES = 2**40


def make_endless(path: Path) -> Path:
    """A tebibyte of zeros that takes no space."""
    with path.open("wb") as file:
        file.truncate(N_BYTES)
    return path


def wait_until_read(path: Path, timeout_s: float = 60.0) -> int:
    """Wait until a process has a file open; its id."""
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to see who reads a file, which this system has not")
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            try:
                if os.readlink(link) == str(path):
                    return int(link.parts[2])
            except OSError:  # not ours, or gone
                continue
        time.sleep(0.02)
    raise AssertionError(f"nobody reads {path}")
