"""The build: from a checkpoint that was read to a bundle that was verified. Format: docs/BUNDLE.md."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from aurora_export import __version__
from aurora_export.contract import graphs
from aurora_export.errors import ResourceError, UsageError
from aurora_export.export.comparison import require_within_limits
from aurora_export.export.feedback_rounding import FeedbackRounding
from aurora_export.export.free_memory import return_free_memory
from aurora_export.export.graph_lint import MAX_OPSET, lint
from aurora_export.export.graphs import build_graphs
from aurora_export.export.onnx_from_torch import export_onnx, residual_divisor
from aurora_export.export.quantizer import Quantizer
from aurora_export.export.reference_outputs import Reference
from aurora_export.export.replace_folder import replaced_folder
from aurora_export.export.selfcheck import write_selfcheck
from aurora_export.export.verify import verify_files_of
from aurora_export.manifest import (
    EMBEDDINGS_DTYPE,
    MANIFEST_NAME,
    Manifest,
    Precision,
    Verification,
    digest_files,
    write_manifest,
)
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.checkpoint import LoadedCheckpoint

FILES = {
    "vision": "onnx/vision.onnx",
    "language": "onnx/language.onnx",
    "embeddings": "embeddings/embeddings.npy",
    "vocabulary": "tokenizer/vocabulary.txt",
    "selfcheck": "selfcheck/selfcheck.safetensors",
}
"""Role -> where the build puts the file. Readers take the path from the manifest."""

REPORT = "reports/build.json"
SCALES = "calibration/scales.json"
"""In bundles of a precision that ends in `-qdq`."""

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")

SLACK_BYTES = 32 * 2**20
"""What a bundle takes beside its weights, with room to spare: graphs, self-check, reports."""

BYTES_PER_WEIGHT: dict[Precision, float] = {
    "fp32": 4,
    "fp16": 2,
    **dict.fromkeys(("int8", "int8-qdq", "fp8-qdq", "int4-qdq"), 1.25),
    "int4": 1,
}
"""Of matrices; at int8 and int4 with the scales of their blocks, and an embedding table in float16."""

BLOCK_BYTES = 16 * 2**20


class ProgressReporter(Protocol):
    """What shows how far a build is."""

    def phase(self, name: str) -> None:
        """Begin a phase; the one before is finished."""

    def detail(self, text: str) -> None:
        """Say how far the phase is; cheap enough to be called often."""


class _Phases:
    """Tells the reporter what goes on, and keeps the times."""

    def __init__(self, reporter: ProgressReporter | None) -> None:
        self._reporter = reporter
        self._began: list[tuple[str, float]] = []

    def begin(self, name: str) -> None:
        self._began.append((name, time.monotonic()))
        if self._reporter is not None:
            self._reporter.phase(name)

    def share_done(self, share: float) -> None:
        if self._reporter is not None:
            self._reporter.detail(f"{share:.0%}")

    def seconds(self) -> dict[str, float]:
        """Phase -> how long it took; the last one until now."""
        ends = [*(began for _, began in self._began[1:]), time.monotonic()]
        return {name: round(end - began, 3) for (name, began), end in zip(self._began, ends, strict=True)}


def build_bundle(
    loaded: LoadedCheckpoint,
    out: Path,
    *,
    precision: Precision = "fp32",
    quantizer: Quantizer | None = None,
    feedback: FeedbackRounding | None = None,
    progress: ProgressReporter | None = None,
    accept: Callable[[Path], Manifest] | None = None,
) -> Manifest:
    """Write a bundle to `out`, or nothing: a bundle that is there is replaced once the new one has passed.

    accept: called with the folder of the finished bundle before it is put in place. It may add to it, returns its
    manifest, and ends the build by raising.
    quantizer: what writes a precision that ends in `-qdq`; None for the others.
    feedback: what rounds the weights of int8 and int4, if not each by itself.
    Raises UsageError (`out` is something else than a bundle), ResourceError (disk or memory), AccuracyError (the
    graphs differ from the reference by more than the limit), GraphError (the export broke a rule).
    """
    out = out.resolve()
    check_destination(out)
    n_bytes = estimated_bytes(loaded.model, precision)
    free = shutil.disk_usage(_existing_parent(out)).free
    if free < n_bytes:
        raise _disk_full(out, n_bytes, free)
    with _resource_errors_translated(out, n_bytes), replaced_folder(out) as folder:
        phases = _Phases(progress)
        for relative in (*FILES.values(), REPORT, *([SCALES] if quantizer is not None else [])):
            (folder / relative).parent.mkdir(exist_ok=True)
        layer_outputs = _write_graphs(loaded.model, folder, phases, precision, quantizer, feedback)
        if quantizer is not None:
            quantizer.write_scales(folder / SCALES)
        phases.begin("write embeddings")
        table = loaded.model.weight("language.emb.weight").numpy().astype(EMBEDDINGS_DTYPE[precision], copy=False)
        _write_embeddings(table, folder / FILES["embeddings"])
        del table
        return_free_memory()
        phases.begin("write tokenizer")
        shutil.copyfile(loaded.vocabulary_path, folder / FILES["vocabulary"])
        phases.begin("write self-check")
        write_selfcheck(Reference(loaded.model), folder / FILES["selfcheck"])
        return_free_memory()
        phases.begin("verify against the reference")
        files = {role: folder / relative for role, relative in FILES.items()}
        verification = verify_files_of(files, loaded.model, precision=precision, progress=phases.share_done)
        require_within_limits(verification, hint="no bundle was written; install the versions in constraints.txt")
        manifest = _write_manifest(
            loaded,
            folder,
            verification,
            layer_outputs,
            phases,
            name=out.stem,
            precision=precision,
            quantizer=quantizer,
            feedback=feedback,
        )
        if accept is not None:
            phases.begin("measure what is lost")
            manifest = accept(folder)
        phases.begin("put it in place")
    return manifest


def check_destination(out: Path) -> None:
    """Refuse a path that holds something else than a bundle or an empty folder. Raises UsageError."""
    is_bundle = (out / MANIFEST_NAME).is_file()
    is_empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_bundle and not is_empty:
        raise UsageError(f"{out}: exists and is not a bundle; it is not overwritten", hint="choose another --out")


def estimated_bytes(model: AuroraModel, precision: Precision) -> int:
    """The size of a bundle, a little too large."""
    n_small = sum(parameter.numel() for name, parameter in model.named_parameters() if not _is_matrix(name, parameter))
    n_matrix = sum(parameter.numel() for parameter in model.parameters()) - n_small
    return int(BYTES_PER_WEIGHT[precision] * n_matrix) + 4 * n_small + SLACK_BYTES


def _is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether it is the weight of a linear layer, or the embedding table."""
    return name.endswith(".weight") and parameter.ndim == 2


def _write_graphs(
    model: AuroraModel,
    folder: Path,
    phases: _Phases,
    precision: Precision,
    quantizer: Quantizer | None,
    feedback: FeedbackRounding | None,
) -> dict[str, list[str]]:
    """Export and lint both graphs; returns the names of their residual streams."""
    to_export = build_graphs(model)
    for name, graph in to_export.items():
        phases.begin(f"export {name}")
        export_onnx(
            graph,
            folder / FILES[name],
            phases.share_done,
            precision=precision,
            quantizer=quantizer,
            feedback=feedback,
        )
        lint(folder / FILES[name], graph, max_opset=quantizer.opset if quantizer is not None else MAX_OPSET)
    return {name: list(graph.layer_outputs) for name, graph in to_export.items()}


def _write_embeddings(table: np.ndarray, path: Path) -> None:
    """Write the table as a .npy file, shape (V, E).

    Not by np.save, whose error for a full disk has no error number.
    """
    table = np.ascontiguousarray(table)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(table))
        content = table.data.cast("B")
        for start in range(0, len(content), BLOCK_BYTES):
            file.write(content[start : start + BLOCK_BYTES])


def _write_manifest(
    loaded: LoadedCheckpoint,
    folder: Path,
    verification: Verification,
    layer_outputs: dict[str, list[str]],
    phases: _Phases,
    *,
    name: str,
    precision: Precision,
    quantizer: Quantizer | None,
    feedback: FeedbackRounding | None,
) -> Manifest:
    """Write the report, then the digests of everything."""
    tools = {tool: version(tool) for tool in TOOLS}
    tools |= {"aurora-export": __version__, "python": platform.python_version()}
    report = {"phase_seconds": phases.seconds(), "warnings": list(loaded.warnings), "tools": tools}
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    phases.begin("compute digests")
    by_calibration = quantizer or feedback
    manifest = Manifest(
        name=name,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=loaded.description,
        precision=precision,
        config=loaded.config,
        contract=dict(graphs(loaded.config)),
        files=FILES,
        digests=dict(digest_files(folder)),
        layer_outputs=layer_outputs,
        residual_divisor=(
            residual_divisor(precision, layer_outputs["language"]) if quantizer is None else quantizer.residual_divisor
        ),
        quantization=None if by_calibration is None else by_calibration.description(),
        tools=tools,
        verification=verification,
    )
    write_manifest(folder, manifest)
    return manifest


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.parents if parent.exists())


@contextmanager
def _resource_errors_translated(out: Path, n_bytes: int) -> Iterator[None]:
    """Turn a full disk or memory into a ResourceError; the partial bundle is gone by then."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(out, n_bytes, shutil.disk_usage(_existing_parent(out)).free) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UsageError(f"{out}: cannot be written: {error.strerror}", hint="choose another --out") from error
        raise
    except MemoryError as error:
        raise ResourceError("memory ran out while building", hint="close other programs") from error


def _disk_full(out: Path, n_bytes: int, free: int) -> ResourceError:
    return ResourceError(
        f"{out}: the bundle needs about {n_bytes / 1e6:.0f} MB of disk, {free / 1e6:.0f} MB are free",
        hint="free some space or choose another --out; nothing was written",
    )
