"""The bundle's self-check: one small input with the reference's outputs, so that `check` needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aurora_export.contract import STATE_NAMES
from aurora_export.errors import IntegrityError
from aurora_export.export.comparison import LIMITS, Comparison
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.manifest import Manifest, Verification, resolve
from aurora_export.runtime.engine import Engine

if TYPE_CHECKING:  # torch
    from aurora_export.export.reference_outputs import Reference

N_FRAMES = 2
N_TOKENS = 5
SEED = 7


def write_selfcheck(reference: Reference, path: Path) -> None:
    """Write inputs and expected outputs of both graphs, by their names in the contract."""
    from safetensors.numpy import save

    frames = sample_frames(N_FRAMES, reference.config.vision.image_size, seed=SEED)
    table = reference.embedding_table
    state = reference.state_after(sample_embeddings(table, 1, N_TOKENS, seed=SEED + 1))
    embeddings = sample_embeddings(table, 1, N_TOKENS, seed=SEED)
    arrays = {
        "frames": frames,
        "embeddings": embeddings,
        **state,
        **reference.run_vision(frames),
        **reference.run_language(embeddings, state),
    }
    # Not save_file: its errors hide whether the disk is full.
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def run_selfcheck(bundle: Path, manifest: Manifest, vision: Engine, language: Engine) -> Verification:
    """Run both graphs of a bundle on the self-check's inputs and measure the errors, over a limit or not.

    The limits are those that the build recorded. Raises IntegrityError if the file is not a self-check of these graphs.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = resolve(bundle, manifest, "selfcheck")
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise IntegrityError(f"{path}: not a self-check: {error}", hint="build the bundle again") from error
    sizes = {"F": N_FRAMES, "B": 1, "T": N_TOKENS}
    for spec in (*vision.spec.inputs, *vision.spec.outputs, *language.spec.inputs, *language.spec.outputs):
        found = arrays.get(spec.name)
        if found is None or found.shape != spec.resolve(**sizes) or found.dtype != spec.dtype:
            raise IntegrityError(f"{path}: {spec.name} is missing or of another shape", hint="build the bundle again")
    recorded = {name: measured.limit for name, measured in manifest.verification.outputs.items()}
    comparison = Comparison(LIMITS[manifest.precision] | recorded)
    comparison.add_vision(vision.run({"frames": arrays["frames"]}), arrays)
    inputs = {name: arrays[name] for name in ("embeddings", *STATE_NAMES)}
    comparison.add_language(language.run(inputs), arrays, n_tokens=N_TOKENS)
    return comparison.verification()
