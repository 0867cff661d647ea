"""Does a bundle compute what its checkpoint does? Its graphs, in the production reader, against the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS, graphs
from aurora_export.errors import IncompatibleError
from aurora_export.export.comparison import (
    LIMITS,
    TENSOR_METRIC,
    Comparison,
    relative_error,
    require_within_limits,
)
from aurora_export.export.free_memory import return_free_memory
from aurora_export.export.reference_outputs import LanguageRun, Reference, next_state
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.manifest import Verification, read_manifest
from aurora_export.model.aurora import AuroraModel
from aurora_export.runtime.engine import Engine
from aurora_export.runtime.engine_onnx import EMULATED_PRECISIONS, OnnxEngine

FRAME_BATCHES = (1, 3)
LANGUAGE_RUNS = ((1, 1), (1, 7), (1, 64), (1, 300), (3, 1), (3, 7))
"""(B, T) of runs from a state that is not zero; the longest is cut into chunks, as a prompt is."""

N_TOKENS_BEFORE = 5
"""Whose state a run begins with."""

ROWS_AT_ONCE = 4096

LEAN_PRECISIONS = ("fp16",)
"""Whose graphs are compared as they lie in the file: a CPU holds half precision at twice its size otherwise."""

Progress = Callable[[float], None]
OpenEngine = Callable[[], Engine]


def verify_bundle(bundle: Path, model: AuroraModel, *, progress: Progress | None = None) -> Verification:
    """Compare a finished bundle with the model that it should be; digests are not checked here.

    Raises IncompatibleError if the bundle has another configuration, AccuracyError if an error is over its limit.
    """
    manifest = read_manifest(bundle)
    if manifest.config != model.config:
        raise IncompatibleError(
            f"{bundle}: was built with another configuration than the reference",
            hint="compare `aurora-export info` with the checkpoint; --profile and --set change it",
        )
    files = {role: bundle / relative for role, relative in manifest.files.items()}
    verification = verify_files_of(files, model, precision=manifest.precision, progress=progress)
    require_within_limits(verification, hint="find the first layer that differs: aurora-export check --layers")
    return verification


def verify_files_of(
    files: Mapping[str, Path], model: AuroraModel, *, precision: str, progress: Progress | None = None
) -> Verification:
    """Measure the errors of a bundle's files, over a limit or not.

    files: paths by role, of vision, language and embeddings.  model: the reference, unpatched.
    """
    reference, specs = Reference(model), graphs(model.config)
    comparison, rounding = (Comparison(LIMITS[precision]) for _ in range(2))

    def opener(graph: str) -> OpenEngine:
        return lambda: OnnxEngine(
            files[graph],
            specs[graph],
            lean=precision in LEAN_PRECISIONS,
            emulated=precision in EMULATED_PRECISIONS,
        )

    steps = [
        lambda: _compare_table(files["embeddings"], reference, comparison),
        lambda: _compare_vision(opener("vision"), reference, comparison, rounding),
        lambda: _compare_language(opener("language"), reference, comparison, rounding),
    ]
    for done, step in enumerate(steps, start=1):
        step()
        return_free_memory()
        if progress is not None:
            progress(done / len(steps))
    comparison.allow_for(rounding)
    return comparison.verification()


def _compare_table(path: Path, reference: Reference, comparison: Comparison) -> None:
    table, expected = np.load(path, mmap_mode="r", allow_pickle=False), reference.embedding_table
    if table.shape != expected.shape:
        raise IncompatibleError(f"{path}: shape is {table.shape}, the reference has {expected.shape}")
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        comparison.record("embeddings", relative_error(table[rows], expected[rows]), TENSOR_METRIC)


# The reference runs first and lets its weights go; only then is the engine opened, which holds all of its own.
def _compare_vision(
    open_engine: OpenEngine, reference: Reference, comparison: Comparison, rounding: Comparison
) -> None:
    batches = [sample_frames(n, reference.config.vision.image_size, seed=n) for n in FRAME_BATCHES]
    outputs = [(reference.run_vision(frames), reference.run_vision(frames, rounded=True)) for frames in batches]
    return_free_memory()
    engine = open_engine()
    for frames, (expected, rounded) in zip(batches, outputs, strict=True):
        comparison.add_vision(engine.run({"frames": frames}), expected)
        rounding.add_vision(rounded, expected)


def _compare_language(
    open_engine: OpenEngine, reference: Reference, comparison: Comparison, rounding: Comparison
) -> None:
    runs = _language_runs(reference.embedding_table)
    outputs = reference.run_languages(runs)
    return_free_memory()
    engine = open_engine()
    for i in range(0, len(runs), 3):
        embeddings, state = runs[i + 1].embeddings, next_state(outputs[i])
        n_tokens = embeddings.shape[1]
        for start in range(0, n_tokens, MAX_CHUNK_TOKENS):
            actual = engine.run({"embeddings": embeddings[:, start : start + MAX_CHUNK_TOKENS], **state})
            state = next_state(actual)
        expected, rounded = outputs[i + 1 : i + 3]
        comparison.add_language(actual, expected, n_tokens=embeddings[..., 0].size)
        rounding.add_language(rounded, expected, n_tokens=embeddings[..., 0].size)


def _language_runs(table: np.ndarray) -> list[LanguageRun]:
    """For each of LANGUAGE_RUNS three: the tokens before it, the run itself, and the run with its input changed."""
    runs: list[LanguageRun] = []
    for n_sequences, n_tokens in LANGUAGE_RUNS:
        before, embeddings = (
            sample_embeddings(table, n_sequences, N_TOKENS_BEFORE, seed=n_tokens),
            sample_embeddings(table, n_sequences, n_tokens),
        )
        continued = len(runs)
        runs += [
            LanguageRun(before),
            LanguageRun(embeddings, continued),
            LanguageRun(embeddings, continued, rounded=True),
        ]
    return runs
