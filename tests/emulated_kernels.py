"""The CUDA kernels, compiled for the CPU against the emulation, perhaps with a fault in them."""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from aurora_export.plugins.wkv.cuda_library import WkvCudaLibrary
from kernel_library import EMULATION_FLAGS, SANITIZER_FLAGS, SOURCES

SCHEDULES = {"in order": 0, "reversed": 1, "shuffled": 2}


def emulated(root: Path, library: Path, *, edit: tuple[str, str, str] | None = None) -> WkvCudaLibrary:
    """The kernels for the CPU. edit: file, text, replacement; to plant a fault.

    A source that compiles to the same is compiled once in a run of the tests, whichever process needs it.
    """
    source = library.parent / "wkv"
    source.mkdir()
    for path in (root / "plugins/wkv").iterdir():
        if path.suffix in {".cu", ".cuh", ".h", ".cpp"}:
            text = path.read_text(encoding="utf-8")
            if edit is not None and path.name == edit[0]:
                assert edit[1] in text
                text = text.replace(edit[1], edit[2])
            (source / path.name).write_text(text, encoding="utf-8")
    of_run = next((folder for folder in library.parents if re.fullmatch(r"pytest-\d+", folder.name)), library.parent)
    objects = [_compiled(source / name, root / "tests/plugins/cuda_emulation", of_run) for name in SOURCES]
    subprocess.run(["g++", "-shared", *SANITIZER_FLAGS, *objects, "-o", str(library)], check=True)
    return WkvCudaLibrary.load(library)


def _compiled(source: Path, headers: Path, folder: Path) -> str:
    """The object file of a source, in `folder` under the digest of all that it includes of ours."""
    contents = b"".join(path.read_bytes() for path in dict.fromkeys(_with_includes(source, headers)))
    name = folder / f"emulated-{hashlib.sha256(contents).hexdigest()[:16]}.o"
    flags = [flag for flag in EMULATION_FLAGS if flag != "-shared"]
    with name.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not name.is_file():
            command = ["g++", *flags, *SANITIZER_FLAGS, f"-I{headers}", "-c", "-xc++", str(source), "-o", f"{name}.new"]
            subprocess.run(command, check=True)
            Path(f"{name}.new").rename(name)
    return str(name)


def _with_includes(source: Path, headers: Path) -> Iterator[Path]:
    yield source
    for included in re.findall(r'#include ["<]([\w.]+)[">]', source.read_text(encoding="utf-8")):
        for folder in (source.parent, headers):
            if (folder / included).is_file():
                yield from _with_includes(folder / included, headers)
                break


def schedule(library: WkvCudaLibrary, seed: int) -> None:
    """Choose the order of the threads."""
    library.library.emulation_set_schedule(ctypes.c_uint(seed))
