"""The native library of our operators for a CPU: where it is, and what it can do here. Imports nothing heavy.

It is optional. Where it is missing, a graph runs on the function bodies that it carries, slower and the same.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

LIBRARY_NAME = "aurora_cpu.so"
"""Beside this file, put there by setup.py."""

SWITCH = "AURORA_CPU_LIBRARY"
"""Environment variable: "off" runs graphs without the library."""

LEVEL = "AURORA_CPU_LEVEL"
"""Environment variable: name of the instruction set to use, one of `Level.name`. The library reads it."""


@dataclass(frozen=True)
class Level:
    """One instruction set that the library was compiled for."""

    name: str
    is_supported: bool
    """by this machine"""


def library_path() -> Path | None:
    """The file to register with ONNX Runtime; None if it was not built, or is switched off."""
    if os.environ.get(SWITCH) == "off":
        return None
    path = Path(__file__).resolve().parent / LIBRARY_NAME
    return path if path.is_file() else None


def levels(path: Path) -> tuple[Level, ...]:
    """The instruction sets of a library, the best first. Raises OSError if it cannot be loaded."""
    name_of = ctypes.CDLL(str(path)).aurora_cpu_level_name
    name_of.restype, name_of.argtypes = ctypes.c_char_p, (ctypes.c_size_t, ctypes.POINTER(ctypes.c_int))
    found: list[Level] = []
    is_supported = ctypes.c_int()
    while (name := name_of(len(found), is_supported)) is not None:
        found.append(Level(name.decode(), bool(is_supported.value)))
    return tuple(found)


def chosen_level(path: Path) -> str:
    """The instruction set that a library uses here.

    Raises ValueError with the reason if the environment asks for one that it has not; OSError if it cannot be loaded.
    """
    choose = ctypes.CDLL(str(path)).aurora_cpu_level
    choose.restype, choose.argtypes = ctypes.c_char_p, (ctypes.POINTER(ctypes.c_char_p),)
    error = ctypes.c_char_p()
    name = choose(error)
    if name is None:
        raise ValueError((error.value or b"").decode())
    return str(name.decode())
