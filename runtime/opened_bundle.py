"""A bundle's files, opened: what all sessions over one model share, and nothing that changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from aurora_export.contract import GraphSpec, graphs
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError
from aurora_export.frames import resize_frame
from aurora_export.manifest import EMBEDDINGS_DTYPE, Manifest, read_manifest, resolve, verify_files
from aurora_export.plugins.cpu import library_path
from aurora_export.runtime.cores import n_usable_cores
from aurora_export.runtime.device import Device, parse_device
from aurora_export.runtime.engine import Engine
from aurora_export.runtime.engine_files import fitting_engines
from aurora_export.runtime.engine_onnx import EMULATED_PRECISIONS, OnnxEngine
from aurora_export.runtime.engine_tensorrt import TensorRtEngine
from aurora_export.runtime.state import State
from aurora_export.runtime.tensorrt_library import PRODUCTS, TensorRt
from aurora_export.tokenizer import Tokenizer

BUILD_AGAIN = "build the bundle again with this version of aurora-export"

FRAMES_AHEAD = 2
INTEGER_PRECISIONS = ("int8", "int4")
"""Whose products our operators sum in integers: a token has the same bits in a run of any length but 1."""

MOST_FRAMES_AHEAD = 64
"""More would be memory for nothing: a frame ahead is there when it is wanted."""


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
    n_ahead: int = 0
    """Frames of a file that are decoded and resized before they are wanted, in a thread; 0: none."""
    joins_runs: bool = False
    """Whether a state has the same bits whether frames are read into it in one run of the language graph or in many."""

    @cached_property
    def fingerprint(self) -> str:
        """What a state must have been made by to continue here."""
        return self.manifest.fingerprint

    def embed_ids(self, ids: tuple[int, ...]) -> np.ndarray:
        """Token ids to embeddings, float32, shape (T, E)."""
        return np.asarray(self.embeddings[list(ids)], np.float32)

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """A frame as the vision graph takes it: uint8, shape (S, S, 3)."""
        config = self.manifest.config
        return resize_frame(
            pixels, size=config.vision.image_size, mode=config.frames.resize, pad_value=config.frames.pad_value
        )

    def zero_state(self) -> State:
        """The state that has seen nothing."""
        manifest = self.manifest
        return State.zero(
            manifest.config,
            fingerprint=self.fingerprint,
            precision=manifest.precision,
            backend=self.language.backend,
        )


def open_bundle(
    path: Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    n_ahead: int | None = None,
    verify: bool = True,
    progress: Callable[[str, int], None] | None = None,
    open_engine: Callable[[str, Path, GraphSpec], Engine] | None = None,
) -> OpenedBundle:
    """Open a bundle: manifest, then digests, then the files themselves. See `Aurora.open` for the parameters.

    open_engine: what opens a graph by its name in the place of ONNX Runtime, for whoever looks inside.
    Raises IntegrityError, IncompatibleError, DependencyError, ResourceError or UsageError.
    """
    threads = n_usable_cores() if threads is None else threads
    if n_ahead is None:
        n_ahead = FRAMES_AHEAD if threads > 1 else 0
    elif not 0 <= n_ahead <= MOST_FRAMES_AHEAD:
        raise UsageError(f"{n_ahead} frames ahead; 0 to {MOST_FRAMES_AHEAD} are possible")
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
    opener = open_engine or _engine_opener(path, manifest, chosen, threads)
    vision, language = (opener(name, resolve(path, manifest, name), specs[name]) for name in ("vision", "language"))
    joins_runs = _joins_runs(manifest, chosen)
    return OpenedBundle(path, manifest, vision, language, embeddings, tokenizer, n_ahead, joins_runs)


def _joins_runs(manifest: Manifest, device: Device) -> bool:
    """See `OpenedBundle.joins_runs`. A frame of one token may be a run of length 1, and so is read alone."""
    return (
        device.backend == "cpu"
        and manifest.precision in INTEGER_PRECISIONS
        and manifest.config.tokens_per_frame > 1
        and library_path() is not None
    )


def _engine_opener(
    path: Path, manifest: Manifest, device: Device, threads: int
) -> Callable[[str, Path, GraphSpec], Engine]:
    """What opens a graph, by its name, file and contract, on a device."""
    if device.backend not in PRODUCTS:
        is_emulated = manifest.precision in EMULATED_PRECISIONS
        return lambda _name, graph, spec: OnnxEngine(graph, spec, threads=threads, device=device, emulated=is_emulated)
    library = TensorRt(device.index, device.backend)
    variant = fitting_engines(path, manifest, library)
    return lambda name, _graph, spec: TensorRtEngine(library, path / variant.files[name], spec, variant.profiles[name])


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
