"""Gives memory that was freed back to the system, which the C library otherwise keeps for the next allocation."""

from __future__ import annotations

import ctypes
import gc
import sys


def return_free_memory() -> None:
    """Collect garbage, then let the C library return its free pages; without glibc, only the first.

    A build reads gigabytes of weights in pieces that are freed at once. Kept pages of the one stage would add to those
    of the next.
    """
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
