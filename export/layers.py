"""Where does a bundle begin to differ from its checkpoint? The residual stream after every block, both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.export.comparison import LIMITS, relative_error
from aurora_export.export.reference_outputs import Reference
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.manifest import Manifest, read_manifest, resolve
from aurora_export.model.aurora import AuroraModel
from aurora_export.runtime.engine_onnx import load_library

N_FRAMES = 3
N_TOKENS = 64

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

    @property
    def differs(self) -> bool:
        """Whether it is more than rounding."""
        return self.relative_error > self.limit


def compare_layers(bundle: Path, model: AuroraModel) -> list[LayerDifference]:
    """Run both graphs and the reference on sample inputs; compare after every block and at the end, in this order.

    The first row that `differs` is where the bundle leaves the checkpoint.
    Raises IncompatibleError if the bundle has another configuration, IntegrityError if its graphs lack the values.
    """
    manifest = read_manifest(bundle)
    if manifest.config != model.config:
        raise IncompatibleError(f"{bundle}: was built with another configuration than the reference")
    return [row for graph in ("vision", "language") for row in _compare_graph(bundle, manifest, graph, model)]


def _compare_graph(bundle: Path, manifest: Manifest, graph: str, model: AuroraModel) -> Iterator[LayerDifference]:
    reference = Reference(model)
    if graph == "vision":
        inputs = {"frames": sample_frames(N_FRAMES, model.config.vision.image_size)}
        expected, output = reference.run_vision(inputs["frames"], layers=True), "visual_tokens"
    else:
        table = reference.embedding_table
        embeddings = sample_embeddings(table, 1, N_TOKENS)
        state = reference.state_after(sample_embeddings(table, 1, N_TOKENS, seed=0))
        inputs = {"embeddings": embeddings, **state}
        expected, output = reference.run_language(embeddings, state, layers=True), "logits"
    measured = manifest.verification.outputs.get(output)
    limit = measured.limit if measured else LIMITS[manifest.precision][output]
    names = [*manifest.layer_outputs[graph], output]
    actual = _run_with_layers(resolve(bundle, manifest, graph), names, inputs)
    for name in names:
        yield _difference(name, actual[name], expected[name], limit=limit)


def _difference(name: str, actual: np.ndarray, expected: np.ndarray, *, limit: float) -> LayerDifference:
    """actual, expected: shape (F or B, T, D or E), or (B, V)."""
    actual, expected = (array.reshape(-1, *array.shape[-2:]) for array in (actual, expected))
    errors = np.abs(actual.astype(np.float64) - expected)
    scale = float(np.abs(expected).max()) or 1.0
    n_moved = 0
    for mine, theirs, error in zip(actual, expected, errors, strict=True):
        for token in np.flatnonzero(error.max(axis=-1) > limit * scale):
            n_moved += bool((np.abs(theirs - mine[token]).max(axis=-1) <= limit * scale).any())
    return LayerDifference(name, float(errors.max()), relative_error(actual, expected), n_moved, limit)


def _run_with_layers(path: Path, names: list[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a graph with inner values made outputs, on a copy in memory that reads the weights where they are."""
    model = onnx.load(path, load_external_data=False)
    outputs = {value.name for value in model.graph.output}
    known = {value.name: value for value in model.graph.value_info}
    for name in (name for name in names if name not in outputs):
        if name not in known:
            raise IntegrityError(f"{path}: no value is called {name}", hint="build the bundle again")
        model.graph.output.append(known[name])
    runtime = load_library()
    options = runtime.SessionOptions()
    options.add_session_config_entry(EXTERNAL_FOLDER_OPTION, str(path.parent))
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
