"""Where a model stands in a video and a conversation: the recurrent state, as an object and as a `.aurstate` file.

The file is safetensors: the tensors of `contract.STATE_NAMES` at batch 1, and as metadata the fields of
`StateHeader`, each a string. It may come from a stranger: nothing in it is run, and nothing is allocated before
its sizes have been compared with what the model's contract says.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import Field, ValidationError

from aurora_export.config import AuroraConfig, Section
from aurora_export.contract import TensorSpec, state_specs
from aurora_export.errors import AuroraError, IncompatibleError, IntegrityError, ResourceError, UsageError

FORMAT_VERSION = "1"
MAX_HEADER_BYTES = 64 * 2**10
"""Cap on the safetensors header; ours has about 1 kB."""

LENGTH_BYTES = 8
"""A safetensors file starts with the size of its header, a little-endian 64-bit number."""

SAVE_AGAIN = "save the state again; it cannot be repaired"

Phase: TypeAlias = Literal["empty", "watching", "answered"]
"""Nothing read yet · after the prefix, frames may follow · after a question and (some of) its answer."""


class StateHeader(Section):
    """What a state belongs to and how far it has come."""

    format_version: str = FORMAT_VERSION
    fingerprint: str = Field(description="Manifest.fingerprint of the model that made it")
    precision: str
    backend: str = Field(description="library and device; another one continues within its rounding")
    phase: Phase = "empty"
    tokens_seen: int = Field(default=0, ge=0, description="visual tokens and text, answers included")
    frames_seen: int = Field(default=0, ge=0)
    position_s: float | None = Field(default=None, description="time of the last frame in its video")
    video_digest: str | None = Field(
        default=None,
        pattern=r"^[0-9a-f]{64}$",
        description="d(0) is 32 zero bytes, d(i) = SHA-256(d(i-1) + frame i as resized, uint8 [S, S, 3])",
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

    def save(self, path: str | Path) -> None:
        """Write a `.aurstate` file, whole or not at all; an existing one is replaced.

        Raises UsageError (no such folder) or ResourceError (disk full).
        """
        fields = self.header.model_dump(exclude_none=True)
        metadata = {name: str(value) for name, value in fields.items()}
        _write_atomically(Path(path), safetensors.numpy.save(self.arrays, metadata))

    @classmethod
    def load(cls, path: str | Path, config: AuroraConfig, *, fingerprint: str) -> State:
        """Read a `.aurstate` file that the model with this fingerprint wrote.

        Raises UsageError (no such file), IncompatibleError (another model, a newer format) or IntegrityError
        (damaged or hostile).
        """
        path = Path(path)
        if not path.is_file():
            raise UsageError(f"{path}: no such state file")
        specs = state_specs(config)
        try:
            content = _read_safetensors_header(path)
            header = _checked_header(path, content.pop("__metadata__", None), fingerprint)
            _check_tensors(path, content, specs)
            with safetensors.safe_open(path, framework="numpy") as file:
                arrays = {spec.name: file.get_tensor(spec.name) for spec in specs}
        except safetensors.SafetensorError as error:
            raise IntegrityError(f"{path}: not a valid state file: {error}", hint=SAVE_AGAIN) from error
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise IntegrityError(f"{path}: {name} holds values that are not finite", hint=SAVE_AGAIN)
        return cls(arrays, header)


def _read_safetensors_header(path: Path) -> dict[str, Any]:
    """The JSON header, after its size was checked."""
    size = path.stat().st_size
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or n_header > min(MAX_HEADER_BYTES, size - LENGTH_BYTES):
            raise IntegrityError(
                f"{path}: not a valid state file: it announces a header of {n_header} bytes; the file has {size} bytes "
                f"and the limit is {MAX_HEADER_BYTES}",
                hint=SAVE_AGAIN,
            )
        text = file.read(n_header)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not a valid state file: its header is not JSON", hint=SAVE_AGAIN) from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: not a valid state file: its header is not a JSON object", hint=SAVE_AGAIN)
    return content


def _checked_header(path: Path, metadata: object, fingerprint: str) -> StateHeader:
    """Our header, of this format version and of this model."""
    if not isinstance(metadata, dict) or "format_version" not in metadata:
        raise IntegrityError(
            f"{path}: a safetensors file, but not a state of aurora-export", hint="states are written by Aurora.save"
        )
    if metadata["format_version"] != FORMAT_VERSION:
        raise IncompatibleError(
            f"{path}: state format {metadata['format_version']}; this version reads {FORMAT_VERSION}",
            hint="install the version of aurora-export that saved it",
        )
    try:
        header = StateHeader.model_validate_strings(metadata)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise IntegrityError(f"{path}: header field {where}: {first['msg']}", hint=SAVE_AGAIN) from error
    if header.fingerprint != fingerprint:
        raise IncompatibleError(
            f"{path}: state of the model {header.fingerprint}; this bundle is {fingerprint}",
            hint="open the bundle that saved it, or watch the video again with this one",
        )
    return header


def _check_tensors(path: Path, content: Mapping[str, Any], specs: tuple[TensorSpec, ...]) -> None:
    """Exactly the tensors of the contract, and a file of exactly their size; offsets are safetensors' to check."""
    expected = {spec.name: {"dtype": "F32", "shape": list(spec.resolve(B=1))} for spec in specs}
    if set(content) != set(expected):
        raise IntegrityError(
            f"{path}: holds the tensors {', '.join(sorted(content)) or 'none'}; expected {', '.join(sorted(expected))}",
            hint=SAVE_AGAIN,
        )
    for name, want in expected.items():
        entry = content[name]
        found = {key: entry.get(key) for key in want} if isinstance(entry, dict) else entry
        if found != want:
            raise IntegrityError(f"{path}: {name} is {found}, expected {want}", hint=SAVE_AGAIN)


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


def _write_error(path: Path, error: OSError, n_bytes: int) -> AuroraError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{path}: the disk is full", hint=f"a state of this model needs {n_bytes} bytes")
    return UsageError(f"{path}: cannot be written: {error.strerror or error}")
