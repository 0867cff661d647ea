"""Where does a bundle begin to differ from its checkpoint? The residual stream after every block, both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.export.comparison import LIMITS, relative_error
from aurora_export.export.free_memory import return_free_memory
from aurora_export.export.reference_outputs import Reference
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.export.verify import LEAN_PRECISIONS
from aurora_export.manifest import Manifest, read_manifest, resolve
from aurora_export.model.aurora import AuroraModel
from aurora_export.runtime.engine_onnx import EMULATED_PRECISIONS, lean_options, load_library, quantization_options

N_FRAMES = 3
N_TOKENS = 64

SHARE_ALIKE = 0.1
"""The share of visual tokens that must have an equal under 32 bits. Most tokens may hold other patches after many
layers; a wrong layer changes all of them."""

EXTERNAL_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True)
class LayerDifference:
    """One value, in the bundle and in the reference."""

    name: str
    """as in the graph: "vision.layers.3", "language.layers.0" """
    max_abs_error: float
    relative_error: float
    """divided by the largest absolute value of the reference"""
    n_moved: int
    """tokens whose equal stands at another position in the reference (merging decided otherwise)"""
    limit: float
    """the relative error that the build allowed for the output of this graph"""
    set_error: float | None = None
    """of visual tokens under 32 bits, which merge otherwise, the error as a set: how far tokens of the reference are
    from the nearest one of the bundle, the worst of the SHARE_ALIKE that are nearest; None where position counts"""

    @property
    def differs(self) -> bool:
        """Whether it is more than rounding."""
        return (self.relative_error if self.set_error is None else self.set_error) > self.limit


def compare_layers(
    bundle: Path, model: AuroraModel, *, progress: Callable[[str], None] | None = None
) -> list[LayerDifference]:
    """Run both graphs and the reference on sample inputs; compare after every block and at the end, in this order.

    The first row that `differs` is where the bundle leaves the checkpoint. progress: called with the name of a graph.
    Raises IncompatibleError if the bundle has another configuration, IntegrityError if its graphs lack the values.
    """
    manifest = read_manifest(bundle)
    if manifest.config != model.config:
        raise IncompatibleError(f"{bundle}: was built with another configuration than the reference")
    rows = []
    for graph in ("vision", "language"):
        if progress is not None:
            progress(graph)
        rows += _compare_graph(bundle, manifest, graph, Reference(model))
        return_free_memory()
    return rows


def _compare_graph(bundle: Path, manifest: Manifest, graph: str, reference: Reference) -> list[LayerDifference]:
    """The reference first, which holds one block at a time; then the engine, which holds all."""
    if graph == "vision":
        inputs = {"frames": sample_frames(N_FRAMES, manifest.config.vision.image_size)}
        expected, output = reference.run_vision(inputs["frames"], layers=True), "visual_tokens"
    else:
        table = reference.embedding_table
        embeddings, before = sample_embeddings(table, 1, N_TOKENS), sample_embeddings(table, 1, N_TOKENS, seed=0)
        del table
        state = reference.state_after(before)
        inputs = {"embeddings": embeddings, **state}
        expected, output = reference.run_language(embeddings, state, layers=True), "logits"
    return_free_memory()
    measured = manifest.verification.outputs.get(output)
    limit = measured.limit if measured else LIMITS[manifest.precision][output]
    layers = manifest.layer_outputs[graph]
    path = resolve(bundle, manifest, graph)
    actual = _run_with_layers(path, [*layers, output], inputs, precision=manifest.precision)
    if graph == "language":
        actual |= {name: actual[name].astype(np.float32) * manifest.residual_divisor for name in layers}
    as_sets = graph == "vision" and manifest.precision != "fp32"
    return [_difference(name, actual[name], expected[name], limit=limit, as_sets=as_sets) for name in (*layers, output)]


def _difference(name: str, actual: np.ndarray, expected: np.ndarray, *, limit: float, as_sets: bool) -> LayerDifference:
    """actual, expected: shape (F or B, T, D or E), or (B, V)."""
    actual, expected = (array.astype(np.float32).reshape(-1, *array.shape[-2:]) for array in (actual, expected))
    error = relative_error(actual, expected)
    if error == float("inf"):
        return LayerDifference(name, error, error, 0, limit)
    scale = float(np.abs(expected).max()) or 1.0
    n_moved, nearest = 0, []
    for mine, theirs in zip(actual, expected, strict=True):
        here = np.abs(mine - theirs).max(axis=-1)
        for token in np.flatnonzero(here > limit * scale) if not as_sets else range(len(theirs)):
            distance = float(np.abs(mine - theirs[token]).max(axis=-1).min())
            nearest.append(distance / scale)
            n_moved += bool(here[token] > limit * scale >= distance)
    set_error = float(np.quantile(nearest, SHARE_ALIKE)) if as_sets else None
    return LayerDifference(name, error * scale, error, n_moved, limit, set_error)


def _run_with_layers(
    path: Path, names: list[str], inputs: Mapping[str, np.ndarray], *, precision: str
) -> dict[str, np.ndarray]:
    """Run a graph with inner values made outputs, on a copy in memory that reads the weights where they are."""
    model = onnx.load(path, load_external_data=False)
    outputs = {value.name for value in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    for name in (name for name in names if name not in outputs):
        if name not in known:
            raise IntegrityError(f"{path}: no value is called {name}", hint="build the bundle again")
        model.graph.output.append(known[name])
    runtime = load_library()
    options = lean_options(runtime) if precision in LEAN_PRECISIONS else runtime.SessionOptions()
    quantization_options(options, emulated=precision in EMULATED_PRECISIONS)
    options.add_session_config_entry(EXTERNAL_FOLDER_OPTION, str(path.parent))
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
