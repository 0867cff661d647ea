"""A bundle's graphs to engines that are compiled ahead of time, beside them in the bundle.

TensorRT-RTX builds for RTX GPUs on machines without one; no plugins there: WKV is standard operators. TensorRT builds
on the GPU that will run it, with our plugins (`engine_graph.py` writes the graphs of both). Engines open with the
version that built them only, but where they were made to be compatible.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from aurora_export.contract import MAX_CHUNK_TOKENS, GraphSpec
from aurora_export.errors import DependencyError, UsageError
from aurora_export.export.builder_process import run_builder
from aurora_export.export.engine_graph import write_plain_graph, write_plugin_graph
from aurora_export.export.tensorrt_target import TENSORRT_TARGETS, TensorRtOptions, tensorrt_target
from aurora_export.manifest import (
    EngineVariant,
    FileEntry,
    Manifest,
    hash_file,
    read_manifest,
    resolve,
    verify_files,
    write_manifest,
)

RTX = "tensorrt-rtx"
TARGETS = (*TENSORRT_TARGETS, RTX)
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX 1.7 builds for; in its own enumeration SM75 to SM121."""

MAX_FRAMES = 8
"""Most frames of one run of a vision engine."""

Profile = dict[str, tuple[int, int, int]]
"""Letter of the contract -> least, usual and most."""

PROFILES: dict[str, tuple[Profile, ...]] = {
    "vision": ({"F": (1, 1, MAX_FRAMES)},),
    # The step first, then prefill, in one engine: smaller than two, though the builder keeps some weights twice.
    "language": (
        {"B": (1, 1, 1), "T": (1, 1, 1)},
        {"B": (1, 1, 1), "T": (1, MAX_CHUNK_TOKENS, MAX_CHUNK_TOKENS)},
    ),
}

BYTES_PER_WEIGHT_BYTE = 4.0
"""Peak memory of a build over the size of the weights, a little too large (benchmarks/bench_engine_build.py)."""

BASE_BYTES = 400 * 2**20
INSTALL = "pip install 'aurora-export[export,tensorrt-rtx]'"

_log = logging.getLogger(__name__)


class ProgressReporter(Protocol):
    """What shows how far a build is."""

    def phase(self, name: str) -> None:
        """Begin a phase; the one before is finished."""

    def detail(self, text: str) -> None:
        """Say how far the phase is; cheap enough to be called often."""


@dataclass(frozen=True)
class Builder:
    """What builds the engines of a target."""

    library: str
    """for messages"""
    package: str
    """key of its version in the manifest"""
    program: str
    """module that is run in a process of its own"""
    write_graph: Callable[[Path, Path], Path]
    compute_capabilities: tuple[str, ...]
    job: dict[str, Any] = field(default_factory=dict)
    """what its job has beside that of any builder"""
    environment: dict[str, str] = field(default_factory=dict)
    gpu: str | None = None
    compatible: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    """of what else the engines depend on"""


def build_engines(
    bundle: Path,
    *,
    target: str,
    compute_capabilities: Sequence[str] = (),
    options: TensorRtOptions | None = None,
    kept_graphs: Path | None = None,
    progress: ProgressReporter,
) -> Manifest:
    """Build the engines of a bundle for a target and put them into it; returns its new manifest.

    compute_capabilities: those of the GPUs to run on, as "8.6"; for TensorRT-RTX only.  options: for TensorRT only,
    which builds for the GPU of this machine.  kept_graphs: a new folder, for each graph as the builder gets it, with
    its weights; there also when the builder refuses it.  Engines that were there for the target are replaced once
    the new ones are complete; until then, and if anything fails, the bundle stays as it is.
    Raises UsageError (target, capabilities, options or folder), DependencyError (no builder, driver or plugin library),
    IncompatibleError (another GPU, or the builder refuses a graph), IntegrityError (the bundle is damaged).
    """
    builder = _builder_of(target, compute_capabilities, options)
    manifest = read_manifest(bundle)
    if kept_graphs is not None and kept_graphs.exists():
        raise UsageError(f"{kept_graphs}: exists, and is not overwritten", hint="name a new folder for the graphs")
    progress.phase("check the bundle")
    verify_files(bundle, manifest)
    versions = set()
    with _folder_beside(bundle) as folder:
        engines = folder / target
        engines.mkdir()
        for graph, spec in manifest.contract.items():
            progress.phase(f"build {graph} for {', '.join(builder.compute_capabilities)}")
            onnx_folder = folder / graph
            onnx_folder.mkdir()
            source = resolve(bundle, manifest, graph)
            warn_of_memory(graph, sum(path.stat().st_size for path in source.parent.glob(f"{source.name}*")))
            onnx_file = builder.write_graph(source, onnx_folder)
            if kept_graphs is not None:
                shutil.copytree(onnx_folder, kept_graphs, dirs_exist_ok=True)
            job = {
                "onnx": str(onnx_file),
                "engine": str(engines / f"{graph}.engine"),
                "compute_capabilities": list(builder.compute_capabilities),
                "profiles": [shapes_of(spec, profile) for profile in PROFILES[graph]],
                **builder.job,
            }
            answer = run_builder(
                job,
                program=builder.program,
                library=builder.library,
                say=progress.detail,
                environment=builder.environment,
            )
            versions.add(answer["version"])
        progress.phase("put it in place")
        variant = EngineVariant(
            files={graph: f"engines/{target}/{graph}.engine" for graph in manifest.contract},
            builder={builder.package: versions.pop(), **builder.versions},
            gpu=builder.gpu,
            compatible=builder.compatible,
            compute_capabilities=builder.compute_capabilities,
            profiles=PROFILES,
        )
        return _put_in_place(bundle, manifest, target, variant, engines)


def shapes_of(spec: GraphSpec, profile: Profile) -> dict[str, list[list[int]]]:
    """Input -> its least, usual and largest shape under a profile. KeyError for a letter that the profile lacks."""
    ends = [{letter: sizes[i] for letter, sizes in profile.items()} for i in range(3)]
    return {tensor.name: [list(tensor.resolve(**sizes)) for sizes in ends] for tensor in spec.inputs}


def _builder_of(target: str, compute_capabilities: Sequence[str], options: TensorRtOptions | None) -> Builder:
    if target in TENSORRT_TARGETS:
        if compute_capabilities:
            raise UsageError(
                f"--compute-capability has no meaning for {target}", hint="it builds for the GPU of this machine"
            )
        return Builder(
            "TensorRT",
            "tensorrt",
            "aurora_export.export.tensorrt_builder",
            write_plugin_graph,
            **tensorrt_target(target, options or TensorRtOptions()),
        )
    if target != RTX:
        raise UsageError(f"target {target}: unknown", hint=f"one of {', '.join(TARGETS)}")
    if options is not None and options != TensorRtOptions():
        raise UsageError(f"options of TensorRT have no meaning for {RTX}", hint="leave them out")
    return Builder(
        "TensorRT-RTX",
        "tensorrt_rtx",
        "aurora_export.export.rtx_builder",
        write_plain_graph,
        _rtx_capabilities(compute_capabilities),
    )


def _rtx_capabilities(compute_capabilities: Sequence[str]) -> tuple[str, ...]:
    unknown = [capability for capability in compute_capabilities if capability not in RTX_CAPABILITIES]
    if unknown or not compute_capabilities or len(set(compute_capabilities)) != len(compute_capabilities):
        raise UsageError(
            f"compute capability {', '.join(compute_capabilities) or 'missing'}: {RTX} needs one or more, each once",
            hint=f"of {', '.join(RTX_CAPABILITIES)}; NVIDIA's page `CUDA GPU Compute Capability` says what a GPU has",
        )
    if find_spec("tensorrt_rtx") is None:
        raise DependencyError(f"--target {RTX} needs tensorrt-rtx, not installed here", hint=INSTALL)
    return tuple(sorted(compute_capabilities, key=RTX_CAPABILITIES.index))


def warn_of_memory(graph: str, weight_bytes: int) -> None:
    """Say what a build is expected to need, where that is more than is free."""
    needed = int(BYTES_PER_WEIGHT_BYTE * weight_bytes) + BASE_BYTES
    _log.debug("%s: about %.1f GB of memory", graph, needed / 1e9)
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return
    if needed > free:
        _log.warning("%s: the build may need %.1f GB of memory; %.1f GB are free", graph, needed / 1e9, free / 1e9)


@contextmanager
def _folder_beside(bundle: Path) -> Iterator[Path]:
    """A folder on the bundle's file system, hidden, gone afterwards."""
    bundle = bundle.resolve()
    folder = Path(tempfile.mkdtemp(dir=bundle.parent, prefix=f".{bundle.name}.engines-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(bundle: Path, manifest: Manifest, target: str, variant: EngineVariant, engines: Path) -> Manifest:
    """Move a folder of engines into the bundle, and write the manifest that names them; undone if that fails."""
    digests = {path: entry for path, entry in manifest.digests.items() if not path.startswith(f"engines/{target}/")}
    digests |= {f"engines/{target}/{path.name}": _flushed_entry(path) for path in engines.iterdir()}
    updated = manifest.model_copy(
        update={
            "digests": dict(sorted(digests.items())),
            "engines": {**manifest.engines, target: variant},
        }
    )
    place, aside = bundle / "engines" / target, engines.with_name("replaced")
    place.parent.mkdir(exist_ok=True)
    try:
        if place.exists():
            place.rename(aside)
        engines.rename(place)
        write_manifest(bundle, updated)
    except BaseException:
        if not engines.exists():
            place.rename(engines)
        if aside.exists():
            aside.rename(place)
        elif not any(place.parent.iterdir()):
            place.parent.rmdir()
        raise
    return updated


def _flushed_entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return hash_file(path)
