"""The bundle's manifest: what is in the bundle, and the digests that are checked before any file is opened.

Format and version list: docs/BUNDLE.md. A bundle may come from a stranger: nothing here opens a file that the
manifest does not name, follows a link, or leaves the bundle's folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from aurora_export.config import AuroraConfig, Section
from aurora_export.contract import GraphSpec
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = "1.3"
"""major.minor: another major is refused; a newer minor is read with a warning, its unknown keys left out."""

Precision = Literal["fp32", "fp16", "int8", "int4", "int8-qdq", "fp8-qdq", "int4-qdq"]
"""Of the weights and products in the graphs; their inputs and outputs are those of the contract, float32, in all.

`-qdq`: by explicit QuantizeLinear and DequantizeLinear, whose scales were calibrated; `int8` and `int4` alone: weights
only.
"""

EMBEDDINGS_DTYPE: dict[Precision, str] = {
    "fp32": "float32",
    **dict.fromkeys(("fp16", "int8", "int4", "int8-qdq", "fp8-qdq", "int4-qdq"), "float16"),
}
"""Precision -> type of the embedding table, whose rows are read one by one as float32."""

MAX_MANIFEST_BYTES = 16 * 2**20
HASH_BLOCK_BYTES = 4 * 2**20
ROLES = ("vision", "language", "embeddings", "vocabulary", "selfcheck")
"""Files that every bundle names, whatever they are called."""

STATE_ROLES = ("vision", "language", "embeddings", "vocabulary")
"""Files that decide what a saved state means: they make the fingerprint."""

_log = logging.getLogger(__name__)


class FileEntry(Section):
    """Size in bytes and SHA-256 of one file."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Measured(Section):
    """One error that the build measured against the reference, and the limit it was held to."""

    error: float
    limit: float
    metric: str


class Verification(Section):
    """What the build compared before it finished."""

    outputs: dict[str, Measured]
    merge_flips: int = Field(ge=0, description="patches that another token took than in the reference")
    n_frames: int = Field(ge=0)
    n_tokens: int = Field(ge=0)


class EngineVariant(Section):
    """Engines that were built ahead of time from the bundle's graphs, for one target."""

    files: dict[str, str] = Field(description="graph -> path inside the bundle")
    builder: dict[str, str] = Field(description="package -> version; engines open with this version only")
    gpu: str | None = Field(default=None, description="name of the GPU that it was built on; None: built without one")
    compatible: tuple[str, ...] = Field(
        default=(),
        description="version: with newer releases of the builder too; or a level of hardware, as AMPERE_PLUS",
    )
    compute_capabilities: tuple[str, ...] = Field(description="GPUs that it was built for, as 8.6")
    profiles: dict[str, tuple[dict[str, tuple[int, int, int]], ...]] = Field(
        description="graph -> for each profile, letter of the contract -> least, usual and most"
    )


class Quantization(Section):
    """What a calibration did to the graphs: of a precision that ends in `-qdq`, or by error feedback."""

    rest: Literal["fp32", "fp16"] = Field(description="of what is not quantized")
    method: str = Field(description="by which the ranges were chosen")
    groups: tuple[str, ...] = Field(description="of layers that are quantized")
    kept: tuple[str, ...] = Field(description="groups of layers that stay float")
    error_feedback: bool = Field(description="whether weights were rounded by second moments, where these are known")
    residual_maximum: float = Field(ge=0, description="of the language model's residual stream, on the clips")


class Manifest(Section):
    """manifest.json. Unknown keys are refused."""

    schema_version: str = SCHEMA_VERSION
    name: str
    created: str = Field(description="UTC, ISO 8601")
    source: dict[str, str] = Field(description="what the checkpoint was: layout, files, dtypes")
    precision: Precision
    config: AuroraConfig
    contract: dict[str, GraphSpec]
    files: dict[str, str] = Field(description="role -> path inside the bundle")
    digests: dict[str, FileEntry] = Field(description="every file of the bundle but this one")
    layer_outputs: dict[str, list[str]] = Field(description="graph -> names of the residual stream after each block")
    residual_divisor: int = Field(default=1, ge=1, description="by which the language graph's is smaller (fp16)")
    quantization: Quantization | None = Field(
        default=None, description="by a calibration: of -qdq, or with error feedback"
    )
    tools: dict[str, str] = Field(description="versions of the packages that built it")
    verification: Verification
    engines: dict[str, EngineVariant] = Field(default={}, description="target -> what was built for it")

    @field_validator("files")
    @classmethod
    def _check_files(cls, files: dict[str, str]) -> dict[str, str]:
        if set(files) != set(ROLES):
            raise ValueError(f"roles are {', '.join(ROLES)}; found {', '.join(sorted(files)) or 'none'}")
        return files

    @property
    def fingerprint(self) -> str:
        """Identity of the model as a state sees it: SHA-256 over config, precision and the model's files."""
        # With whatever stands beside them: the weights of a graph are in a file that the manifest has no role for.
        folders = {PurePosixPath(self.files[role]).parent for role in STATE_ROLES}
        model_files = {path: entry for path, entry in self.digests.items() if PurePosixPath(path).parent in folders}
        identity = {
            "config": self.config.model_dump(mode="json"),
            "precision": self.precision,
            "digests": {path: entry.sha256 for path, entry in model_files.items()},
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_manifest(bundle: Path) -> Manifest:
    """Read and validate a bundle's manifest; no other file is opened.

    Raises UsageError if there is no such folder, IntegrityError that names file, key and what is wrong, or
    IncompatibleError for another major version.
    """
    path = bundle / MANIFEST_NAME
    hint = "a bundle is a folder made by `aurora-export build`; build it again if it was damaged"
    if not bundle.exists():
        raise UsageError(f"{bundle}: no such bundle", hint=hint)
    if not path.is_file() or path.is_symlink():
        raise IntegrityError(f"{bundle}: has no {MANIFEST_NAME}", hint=hint)
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{path}: {path.stat().st_size} bytes, over the limit of {MAX_MANIFEST_BYTES}", hint=hint)
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=refuse_double_keys)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: not valid JSON: {error}", hint=hint) from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: expected a JSON object, found {type(content).__name__}", hint=hint)
    content = _known_keys(path, content)
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the manifest"
        message = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise IntegrityError(f"{path}: {where}: {message}", hint=hint) from error
    named = {f"files.{role}": relative for role, relative in manifest.files.items()}
    for target, variant in manifest.engines.items():
        named |= {f"engines.{target}.files.{graph}": relative for graph, relative in variant.files.items()}
    for relative in (*named.values(), *manifest.digests):
        check_relative_path(relative, named_in=path)
    for key, relative in named.items():
        if relative not in manifest.digests:
            raise IntegrityError(f"{path}: {key}: {relative} has no digest", hint=hint)
    return manifest


def refuse_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json.loads: of two values of a key, another reader would take the other one. Raises ValueError."""
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)[:40]!r} stands twice")
    return content


def _known_keys(path: Path, content: dict[str, object]) -> dict[str, object]:
    """Refuse another major version; of a newer minor one, leave out the keys that this version does not know."""
    found = str(content.get("schema_version", "missing"))
    major, _, minor = found.partition(".")
    known_major, _, known_minor = SCHEMA_VERSION.partition(".")
    if major != known_major or not minor.isdigit():
        raise IncompatibleError(
            f"{path}: schema_version is {found}; this version reads {known_major}.x",
            hint="build the bundle again, or install the version of aurora-export that made it",
        )
    if int(minor) <= int(known_minor):
        return content
    unknown = sorted(set(content) - set(Manifest.model_fields))
    _log.warning("%s: schema_version %s is newer than %s; keys left out: %s", path, found, SCHEMA_VERSION, unknown)
    return {key: value for key, value in content.items() if key not in unknown}


def check_relative_path(relative: str, *, named_in: Path) -> None:
    """Refuse a path that could leave the bundle. Raises IntegrityError."""
    parts = relative.split("/")
    if "\\" in relative or ":" in relative or "\0" in relative or any(part in ("", ".", "..") for part in parts):
        raise IntegrityError(
            f"{named_in}: {relative!r} is not a plain path inside the bundle",
            hint="do not use this bundle: a path that leaves its folder is a sign of tampering",
        )


def verify_files(bundle: Path, manifest: Manifest, progress: Callable[[str, int], None] | None = None) -> None:
    """Check that the bundle holds exactly the manifest's files: names and sizes first, then SHA-256 of each.

    progress: called with a file's relative path and the bytes of it that were read since the last call.
    Raises IntegrityError that names the file, what was expected and what was found.
    """
    hint = "copy the bundle again from where it came from, or build it again"
    found = _files_on_disk(bundle)
    for relative, entry in manifest.digests.items():
        if relative not in found:
            raise IntegrityError(f"{bundle}: {relative} is missing", hint=hint)
        if found[relative] != entry.size:
            raise IntegrityError(
                f"{bundle / relative}: expected {entry.size} bytes, found {found[relative]}", hint=hint
            )
    unknown = sorted(set(found) - set(manifest.digests) - {MANIFEST_NAME})
    if unknown:
        raise IntegrityError(
            f"{bundle}: {unknown[0]} is not in the manifest ({len(unknown)} such files)",
            hint="remove files that are not part of the bundle",
        )
    for relative, entry in manifest.digests.items():
        report = None if progress is None else partial(progress, relative)
        digest = hash_file(bundle / relative, report).sha256
        if digest != entry.sha256:
            raise IntegrityError(
                f"{bundle / relative}: SHA-256 is {digest}, the manifest says {entry.sha256}", hint=hint
            )


def _files_on_disk(bundle: Path) -> dict[str, int]:
    """Relative path -> size of every file in the bundle. Raises IntegrityError for a link or a special file."""
    found = {}
    for folder, folders, files in os.walk(bundle, followlinks=False):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise IntegrityError(
                    f"{path}: a bundle holds plain files and folders only, no links", hint="copy the file itself"
                )
        for name in files:
            path = Path(folder, name)
            found[path.relative_to(bundle).as_posix()] = path.stat().st_size
    return found


def hash_file(path: Path, progress: Callable[[int], object] | None = None) -> FileEntry:
    """Size and SHA-256 of a file, read in blocks. progress: called with the bytes of each block."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            if progress is not None:
                progress(len(block))
    return FileEntry(size=size, sha256=digest.hexdigest())


def resolve(bundle: Path, manifest: Manifest, role: str) -> Path:
    """The file that has a role, one of ROLES."""
    return bundle / manifest.files[role]


def digest_files(bundle: Path) -> Mapping[str, FileEntry]:
    """Digests of every file in the bundle but the manifest, sorted by path."""
    return {path: hash_file(bundle / path) for path in sorted(_files_on_disk(bundle)) if path != MANIFEST_NAME}


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Write manifest.json, flushed to disk; one that is there is replaced whole or not at all."""
    path = bundle / f".{MANIFEST_NAME}.partial"
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        path.replace(bundle / MANIFEST_NAME)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
