"""Where a model stands in a video and a conversation: the recurrent state, as an object and as a `.aurstate` file.

The file (docs/STATES.md) is safetensors: the tensors of `contract.STATE_NAMES` at batch 1, raw or packed, and as
metadata the fields of `StateHeader`, each a string. It may come from a stranger: nothing in it is run, and nothing is
allocated before its sizes have been compared with what the model's contract says.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import Field, ValidationError

from aurora_export.config import AuroraConfig, Section
from aurora_export.contract import STATE_NAMES, TensorSpec, state_specs
from aurora_export.errors import AuroraError, IncompatibleError, IntegrityError, ResourceError, UsageError
from aurora_export.manifest import refuse_double_keys
from aurora_export.runtime.packing import pack, unpack

STATE_SUFFIX = ".aurstate"
FORMAT_VERSION = "2"
"""What is written. Version 1 had fewer header fields and no packed tensors; it is read too."""
READ_VERSIONS = ("1", "2")
MAX_HEADER_BYTES = 64 * 2**10
"""Cap on the safetensors header; ours has about 1 kB."""
MAX_PRIMED_FOR = 500
"""Characters that the header keeps of a question; the state has read all of it."""

LENGTH_BYTES = 8
"""A safetensors file starts with the size of its header, a little-endian 64-bit number."""

SAVE_AGAIN = "make it again with `aurora-export ingest`; a damaged state cannot be repaired"

Phase: TypeAlias = Literal["empty", "watching", "answered"]
"""Nothing read yet · after the prefix, frames may follow · after a question and (some of) its answer."""

PromptForm: TypeAlias = Literal["generic", "primed"]
"""Before the frames stood the general instruction, which serves any question, or the question itself."""

Encoding: TypeAlias = Literal["raw", "packed"]
"""Tensors as they are, or each as the bytes of `packing.pack`."""


class StateHeader(Section):
    """What a state belongs to and how far it has come."""

    format_version: str = FORMAT_VERSION
    fingerprint: str = Field(description="Manifest.fingerprint of the model that made it")
    precision: str
    backend: str = Field(description="library and device; another one continues within its rounding")
    phase: Phase = "empty"
    tokens_seen: int = Field(default=0, ge=0, description="visual tokens and text, answers included")
    frames_seen: int = Field(default=0, ge=0)
    position_s: float | None = Field(default=None, description="time of the last frame since the first one watched")
    video_digest: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="d(0) is 32 zero bytes, d(i) = SHA-256(d(i-1) + frame i as resized, uint8 [S, S, 3])",
    )
    prompt_form: PromptForm | None = Field(default=None, description="of the last video; absent in version 1")
    primed_for: str | None = Field(default=None, max_length=MAX_PRIMED_FOR, description="the question of `primed`")
    sampling: str | None = Field(
        default=None, max_length=40, description="rule by which frames were chosen, or `mixed`; absent in version 1"
    )
    parent_digest: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="State.digest of the saved state that this one continued"
    )


@dataclass
class State:
    """The recurrent arrays by name, float32 as `contract.state_specs` at B = 1, and their header."""

    arrays: dict[str, np.ndarray]
    header: StateHeader

    @classmethod
    def zero(cls, config: AuroraConfig, *, fingerprint: str, precision: str, backend: str) -> State:
        """The state before anything was read."""
        arrays = {spec.name: np.zeros(spec.resolve(B=1), spec.dtype) for spec in state_specs(config)}
        return cls(arrays, StateHeader(fingerprint=fingerprint, precision=precision, backend=backend))

    def copy(self) -> State:
        """The same state with arrays of its own: a fork."""
        return State({name: array.copy() for name, array in self.arrays.items()}, self.header)

    @property
    def n_bytes(self) -> int:
        """Size of the arrays; the same however long the video was."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def digest(self) -> str:
        """SHA-256 over the arrays in the order of `contract.STATE_NAMES`: two states with one digest are the same."""
        digest = hashlib.sha256()
        for name in STATE_NAMES:
            digest.update(np.ascontiguousarray(self.arrays[name]).data)
        return digest.hexdigest()

    def save(self, path: str | Path, *, packed: bool = False) -> int:
        """Write a `.aurstate` file, whole or not at all; an existing one is replaced. Returns its size in bytes.

        packed: compress without loss; see packing.py. Raises UsageError (no such folder) or ResourceError (disk full).
        """
        fields = self.header.model_dump(exclude_none=True)
        metadata = {name: str(value) for name, value in fields.items()}
        metadata["encoding"] = "packed" if packed else "raw"
        arrays = {name: pack(array) for name, array in self.arrays.items()} if packed else self.arrays
        data = safetensors.numpy.save(arrays, metadata)
        _write_atomically(Path(path), data)
        return len(data)

    @classmethod
    def load(cls, path: str | Path, config: AuroraConfig, *, fingerprint: str) -> State:
        """Read a `.aurstate` file that the model with this fingerprint wrote.

        Raises UsageError (no such file), IncompatibleError (another model, a newer format) or IntegrityError
        (damaged or hostile).
        """
        path = Path(path)
        file = read_state_header(path)
        if file.header.fingerprint != fingerprint:
            raise IncompatibleError(
                f"{path}: state of the model {file.header.fingerprint}; this bundle is {fingerprint}",
                hint="open the bundle that saved it, or watch the video again with this one",
            )
        specs = state_specs(config)
        if file.encoding == "raw":
            _check_shapes(path, file.tensors, specs)
        try:
            with safetensors.safe_open(path, framework="numpy") as content:
                arrays = {spec.name: content.get_tensor(spec.name) for spec in specs}
        except safetensors.SafetensorError as error:
            raise _damaged(path, f"not a valid state file: {error}") from error
        if file.encoding == "packed":
            try:
                arrays = {spec.name: unpack(arrays[spec.name], spec.resolve(B=1)) for spec in specs}
            except ValueError as error:
                raise _damaged(path, f"a packed tensor is damaged: {error}") from error
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise _damaged(path, f"{name} holds values that are not finite")
        return cls(arrays, file.header.model_copy(update={"format_version": FORMAT_VERSION}))


@dataclass(frozen=True)
class StateFile:
    """What a state file says of itself; its tensors were not read."""

    header: StateHeader
    encoding: Encoding
    tensors: Mapping[str, Any]
    """name -> dtype and shape, as safetensors has them"""
    n_bytes: int
    """of the file"""


def read_state_header(path: str | Path) -> StateFile:
    """Read what stands before the tensors; needs no model, and no more than MAX_HEADER_BYTES of memory.

    Raises UsageError (no such file), IncompatibleError (a newer format) or IntegrityError (damaged or hostile).
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such state file", hint="a state is made by `aurora-export ingest`")
    try:
        content = _read_safetensors_header(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
    header, encoding = _checked_header(path, content.pop("__metadata__", None))
    _check_tensors(path, content, "F32" if encoding == "raw" else "U8")
    return StateFile(header, encoding, content, path.stat().st_size)


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path}: {what}", hint=SAVE_AGAIN)


def _read_safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header, after its size was checked."""
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or n_header > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise _damaged(
                path,
                f"not a valid state file: it announces a header of {n_header} bytes; the file has {size} bytes "
                f"and the limit is {MAX_HEADER_BYTES}",
            )
        text = file.read(n_header)
    try:
        content = json.loads(text, object_pairs_hook=refuse_double_keys)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "not a valid state file: its header is not JSON") from error
    if not isinstance(content, dict):
        raise _damaged(path, "not a valid state file: its header is not a JSON object")
    return content


def _checked_header(path: Path, metadata: object) -> tuple[StateHeader, Encoding]:
    """Our header, of a format version that is read here, and how the tensors are stored."""
    if not isinstance(metadata, dict) or "format_version" not in metadata:
        raise IntegrityError(
            f"{path}: a safetensors file, but not a state of aurora-export",
            hint="a state is made by `aurora-export ingest` or Aurora.save",
        )
    if metadata["format_version"] not in READ_VERSIONS:
        raise IncompatibleError(
            f"{path}: state format {str(metadata['format_version'])[:20]!r}; "
            f"this version reads {' and '.join(READ_VERSIONS)}",
            hint="install the version of aurora-export that saved it",
        )
    encoding = metadata.pop("encoding", "raw")
    if encoding not in get_args(Encoding):
        raise _damaged(path, f"header field encoding: {str(encoding)[:20]!r} is none of raw, packed")
    try:
        return StateHeader.model_validate_strings(metadata), encoding
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _damaged(path, f"header field {where!r}: {first['msg']}") from error


def _check_tensors(path: Path, content: Mapping[str, Any], dtype: str) -> None:
    """Exactly the tensors of the contract, of one type, side by side, in a file of exactly their size."""
    if set(content) != set(STATE_NAMES):
        names = ", ".join(name[:40] for name in sorted(content)[:9]) or "none"
        raise _damaged(path, f"holds the tensors {names}; expected {', '.join(sorted(STATE_NAMES))}")
    n_bytes = 0
    for name, entry in content.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        is_shape = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
        if not is_shape or entry.get("dtype") != dtype:
            raise _damaged(path, f"{name} is {str(entry)[:200]}, expected {dtype}")
        n_bytes += math.prod(entry["shape"]) * (4 if dtype == "F32" else 1)
    with path.open("rb") as file:
        n_before = LENGTH_BYTES + int.from_bytes(file.read(LENGTH_BYTES), "little")
    if path.stat().st_size - n_before != n_bytes:
        raise _damaged(
            path,
            f"not a valid state file: its tensors need {n_bytes} bytes, the file has {path.stat().st_size - n_before}",
        )


def _check_shapes(path: Path, content: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> None:
    """The shapes that this model has; offsets are safetensors' to check."""
    for spec in specs:
        want = list(spec.resolve(B=1))
        if content[spec.name]["shape"] != want:
            raise _damaged(path, f"{spec.name} has the shape {content[spec.name]['shape']}, expected {want}")


def _write_atomically(path: Path, data: bytes) -> None:
    """Write to a temporary name beside the file, flush to disk, rename."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _write_error(path, error, len(data)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def remove_unfinished(path: Path) -> None:
    """Delete what writers of this file left behind when they were killed. Not while one is at work."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 8}.tmp"):
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write_error(path: Path, error: OSError, n_bytes: int) -> AuroraError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{path}: the disk is full", hint=f"a state of this model needs {n_bytes} bytes")
    return UsageError(f"{path}: cannot be written: {error.strerror or error}")
