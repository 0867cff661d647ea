"""A bundle's files, opened: what all sessions over one model share, and nothing that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from aurora_export.contract import graphs
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError
from aurora_export.manifest import EMBEDDINGS_DTYPE, Manifest, read_manifest, resolve, verify_files
from aurora_export.runtime.device import Device, parse_device
from aurora_export.runtime.engine import Engine
from aurora_export.runtime.engine_files import fitting_engines
from aurora_export.runtime.engine_onnx import OnnxEngine
from aurora_export.runtime.engine_tensorrt import TensorRt, TensorRtEngine
from aurora_export.tokenizer import Tokenizer

BUILD_AGAIN = "build the bundle again with this version of aurora-export"


@dataclass(frozen=True)
class OpenedBundle:
    """Engines, embeddings and tokenizer of one bundle. Immutable; safe to share between threads."""

    path: Path
    manifest: Manifest
    vision: Engine
    language: Engine
    embeddings: np.ndarray
    """float32 or float16, shape (V, E), mapped from the file: only the rows in use are in memory."""
    tokenizer: Tokenizer

    @cached_property
    def fingerprint(self) -> str:
        """What a state must have been made by to continue here."""
        return self.manifest.fingerprint

    def embed_ids(self, ids: tuple[int, ...]) -> np.ndarray:
        """Token ids to embeddings, float32, shape (T, E)."""
        return np.asarray(self.embeddings[list(ids)], np.float32)


def open_bundle(
    path: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    verify: bool = True,
    progress: Callable[[str, int], None] | None = None,
) -> OpenedBundle:
    """Open a bundle: manifest, then digests, then the files themselves. See `Aurora.open` for the parameters.

    Raises IntegrityError, IncompatibleError, DependencyError, ResourceError or UsageError.
    """
    chosen = parse_device(device)
    manifest = read_manifest(path)
    specs = graphs(manifest.config)
    if dict(specs) != manifest.contract:
        different = [name for name in specs if manifest.contract.get(name) != specs[name]]
        raise IncompatibleError(
            f"{path}: the contract of the {' and '.join(different) or 'graphs'} is not that of this version",
            hint=BUILD_AGAIN,
        )
    if verify:
        verify_files(path, manifest, progress)
    tokenizer = Tokenizer.from_file(resolve(path, manifest, "vocabulary"))
    n_rows = manifest.config.language.vocabulary_size
    if tokenizer.vocabulary_size > n_rows:
        raise IntegrityError(
            f"{path}: the vocabulary has ids up to {tokenizer.vocabulary_size - 1}; the model has {n_rows} rows",
            hint="build the bundle again with the checkpoint's own vocabulary",
        )
    embeddings = _open_embeddings(
        resolve(path, manifest, "embeddings"),
        (n_rows, manifest.config.language.width),
        EMBEDDINGS_DTYPE[manifest.precision],
    )
    open_engine = _engine_opener(path, manifest, chosen, threads)
    return OpenedBundle(path, manifest, open_engine("vision"), open_engine("language"), embeddings, tokenizer)


def _engine_opener(path: Path, manifest: Manifest, device: Device, threads: int | None) -> Callable[[str], Engine]:
    """A function from a graph's name to its engine on a device."""
    if device.backend != "tensorrt":
        return lambda name: OnnxEngine(
            resolve(path, manifest, name), manifest.contract[name], threads=threads, device=device
        )
    if threads is not None:
        raise UsageError("threads are of a CPU, and engines of TensorRT use none", hint="leave --threads out")
    library = TensorRt(device.index)
    variant = fitting_engines(path, manifest, library.gpu, library.version)
    return lambda name: TensorRtEngine(
        library, path / variant.files[name], manifest.contract[name], variant.profiles[name]
    )


def _open_embeddings(path: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    try:
        table: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise IntegrityError(f"{path}: not a numpy array: {error}", hint=BUILD_AGAIN) from error
    if table.shape != shape or table.dtype != dtype:
        raise IntegrityError(
            f"{path}: {table.dtype} {table.shape}, expected {dtype} {shape} by the manifest", hint=BUILD_AGAIN
        )
    return table
