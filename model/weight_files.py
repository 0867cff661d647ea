"""Opens files of weights and runs nothing in them: safetensors, and PyTorch's zip and legacy pickles.

What a file is, is decided by its first bytes, never by its name. Tensors are memory-mapped: opening reads names,
shapes and types; the numbers are read by `StoredTensor.read`.
"""

from __future__ import annotations

import ctypes
import mmap
import pickle
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aurora_export.errors import IncompatibleError, IntegrityError, UsageError

_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WRAPPERS = ("state_dict", "module", "model")
"""Under which key training tools (mmengine, DeepSpeed, others) put the weights in a pickle."""
_HINT_FETCH_AGAIN = "fetch or copy the file again and compare its size with the original"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that lies in a file and has not been read."""

    path: Path
    name: str
    """as the file calls it"""
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    """None for types that no weight has (integers, 8-bit floats)"""
    read: Callable[[], Tensor]
    """Read it, in the file's own type; memory-mapped where the format allows it."""
    in_mapped_pickle: bool = False
    """it lies in a mapping that stays open, whose pages `release` gives back"""

    def __str__(self) -> str:
        return f"{self.name} in {self.path}"

    def release(self) -> None:
        """Give the pages of a mapped tensor back to the system; they are read again from the file when needed.

        Without this a process grows to the size of the file that it reads from one end to the other.
        """
        if self.in_mapped_pickle and sys.platform == "linux":
            tensor = self.read()
            start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
            skipped = start % mmap.PAGESIZE  # a range for madvise begins at a page
            address, length = ctypes.c_void_p(start - skipped), ctypes.c_size_t(size + skipped)
            ctypes.CDLL(None).madvise(address, length, mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class WeightFile:
    """One opened file of weights."""

    path: Path
    size: int
    tensors: Mapping[str, StoredTensor]
    warnings: tuple[str, ...] = ()


def open_weights(path: Path) -> WeightFile:
    """Open one file.

    Raises UsageError if it is not there, IntegrityError if it is damaged, holds no weights or wants to run code.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file or folder") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(b"PK\x03\x04"):
        return _open_pickle(path, size, mapped=True)
    # Before the pickle: the length of a header may well begin with a pickle's first byte.
    if start[8:9] == b"{":
        return _open_safetensors(path, size)
    if start.startswith(b"\x80"):
        return _open_pickle(path, size, mapped=False)
    raise _not_weights(path, size, start)


def _not_weights(path: Path, size: int, start: bytes) -> IntegrityError:
    text = start.lstrip().lower()
    if size == 0:
        return IntegrityError(f"{path} is empty", hint=_HINT_FETCH_AGAIN)
    if text.startswith(b"version https://git-lfs"):
        return IntegrityError(
            f"{path} is a Git LFS pointer of {size} bytes, not the weights themselves", hint="run `git lfs pull`"
        )
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return IntegrityError(
            f"{path} is a web page, not weights", hint="download the file itself, not the page that shows it"
        )
    return IntegrityError(
        f"{path} is neither safetensors nor a PyTorch file (it starts with {start[:8].hex(' ')})",
        hint=_HINT_FETCH_AGAIN,
    )


def _open_safetensors(path: Path, size: int) -> WeightFile:
    try:
        file = safe_open(path, framework="pt", device="cpu")
        tensors = {}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            tensors[name] = StoredTensor(
                path=path,
                name=name,
                shape=tuple(part.get_shape()),
                dtype=_DTYPES.get(part.get_dtype()),
                read=partial(_read_safetensor, path, name),
            )
    except (SafetensorError, OSError) as error:
        raise IntegrityError(f"{path} is damaged: {_first_line(error)}", hint=_HINT_FETCH_AGAIN) from error
    return WeightFile(path, size, tensors)


def _read_safetensor(path: Path, name: str) -> Tensor:
    """Through a mapping of its own, which goes when the tensor goes: a shared one would keep all pages in memory."""
    with safe_open(path, framework="pt", device="cpu") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor


def _open_pickle(path: Path, size: int, *, mapped: bool) -> WeightFile:
    """A .bin, .pt or .pth: unpickled by torch's weights-only reader, which knows tensors and dicts and nothing else."""
    try:
        content = torch.load(path, map_location="cpu", mmap=mapped, weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way: EOFError, IndexError, RuntimeError, ...
        raise _unreadable_pickle(path, error) from error
    warnings = []
    if not mapped:
        warnings.append(f"{path} is a legacy .pth that cannot be memory-mapped: it is read into memory as a whole")
    content, besides = _unwrap(content)
    if besides:
        warnings.append(f"{path}: not weights, ignored: {', '.join(besides)}")
    if not isinstance(content, dict) or not content:
        raise IntegrityError(f"{path} holds no dict of tensors, but {_describe(content)}")
    tensors = {name: _stored(path, name, value, mapped=mapped) for name, value in content.items()}
    return WeightFile(path, size, tensors, (*warnings,))


def _unreadable_pickle(path: Path, error: Exception) -> IntegrityError:
    wanted = re.search(r"GLOBAL ([\w.]+)|unrecognized function (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return IntegrityError(
            f"{path} wants to run code while it is read ({wanted[1] or wanted[2]}); nothing was executed",
            hint="use a file that holds tensors only, best of all safetensors",
        )
    return IntegrityError(f"{path} is damaged: {_first_line(error)}", hint=_HINT_FETCH_AGAIN)


def _unwrap(content: Any) -> tuple[Any, list[str]]:
    """Take the weights out of what a training tool wrapped around them; also name what lay beside them."""
    if isinstance(content, dict):
        for wrapper in _WRAPPERS:
            if isinstance(content.get(wrapper), dict):
                return content[wrapper], sorted(str(name) for name in content if name != wrapper)
    return content, []


def _stored(path: Path, name: Any, value: Any, *, mapped: bool) -> StoredTensor:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise IntegrityError(f"{path}: {name!r} is no tensor, but {_describe(value)}")
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        raise IncompatibleError(f"{name} in {path} is sparse, quantised or without numbers; plain tensors are read")
    # A few bytes in the file may claim to be any number of elements (stride 0): converting them would fill the memory.
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise IntegrityError(f"{name} in {path} claims shape {list(value.shape)}, which is more than the file holds")
    tensor = value.detach()
    dtype = tensor.dtype if tensor.dtype in _DTYPES.values() else None
    return StoredTensor(path, name, tuple(tensor.shape), dtype, read=lambda: tensor, in_mapped_pickle=mapped)


def _describe(value: Any) -> str:
    return f"an empty {type(value).__name__}" if value in ({}, [], ()) else f"a {type(value).__name__}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
