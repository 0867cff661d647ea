r"""What the errors that a build limits cost in answers: one model, quantized worse and worse.

    python benchmarks/record.py quantization_limits -- python benchmarks/bench_limits.py build/testbed.aurora \
        --scales build/scales.json --questions build/noisy/questions.jsonl

The ends of all codes are moved inwards (or outwards) by a factor, so that activations are cut off (or rounded more
coarsely) more and more. For each the errors of `export/comparison.py`, on the inputs of a build, against the float32
graphs; and what is lost over the questions. With --resume FILE a factor that was measured before, by this commit and on
the same inputs, is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from environment import environment
from resumed import Rows

from aurora_export.calibration.gate import loss_of
from aurora_export.calibration.measures import Yardstick, remembering
from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.recipes import RECIPES
from aurora_export.calibration.scales_file import Scales, read_scales
from aurora_export.calibration.variants import Variants
from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES
from aurora_export.export.comparison import LIMITS, Comparison
from aurora_export.export.sample_inputs import sample_embeddings, sample_frames
from aurora_export.export.verify import FRAME_BATCHES
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle

FACTORS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 4.0, 16.0)
N_TOKENS = (1, 64, 300)


def with_ends_times(scales: Scales, factor: float) -> Scales:
    """The scales with the ends of all codes moved."""
    tensors = {
        name: entry.model_copy(update={"int8": entry.int8 * factor, "fp8": entry.fp8 * factor})
        for name, entry in scales.tensors.items()
    }
    return scales.model_copy(update={"tensors": tensors})


def errors_of(candidate: OpenedBundle, yardstick: OpenedBundle, limits: Mapping[str, float]) -> dict[str, float]:
    """The errors that a build limits, the float32 graphs being the reference."""
    comparison = Comparison(limits)
    for n_frames in FRAME_BATCHES:
        frames = {"frames": sample_frames(n_frames, yardstick.manifest.config.vision.image_size, seed=n_frames)}
        comparison.add_vision(candidate.vision.run(frames), yardstick.vision.run(frames))
    for n_tokens in N_TOKENS:
        embeddings = sample_embeddings(np.asarray(yardstick.embeddings, np.float32), 1, n_tokens)[0]
        outputs = []
        for side in (candidate, yardstick):
            loop = side.language.open_loop()
            for start in range(0, n_tokens, MAX_CHUNK_TOKENS):
                logits = loop.advance(embeddings[start : start + MAX_CHUNK_TOKENS]).copy()
            states = loop.read_state()
            outputs.append({"logits": logits[None]} | {f"next_{name}": states[name] for name in STATE_NAMES})
        comparison.add_language(*outputs, n_tokens=n_tokens)
    return {name: found.error for name, found in comparison.verification().outputs.items()}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--scales", type=click.Path(path_type=Path), required=True, help="Of this fp32 bundle.")
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="JSON lines.")
@click.option("--precision", default="int8", show_default=True, help="Recipe.")
@click.option("--resume", type=click.Path(path_type=Path), help="JSON lines of what was measured; appended to.")
def main(bundle: Path, scales: Path, questions: Path, precision: str, resume: Path | None) -> None:
    """Print one JSON object."""
    asked, read = read_questions(questions), read_scales(scales)
    yardstick, limits = remembering(open_bundle(bundle, threads=1)), LIMITS[f"{precision}-qdq"]
    identity = {
        "yardstick": yardstick.fingerprint,
        "questions": asked.digest,
        "scales": hashlib.sha256(read.model_dump_json().encode()).hexdigest(),
        "precision": precision,
        "commit": environment()["commit"],
    }
    done, known = Rows(resume, identity), None
    for factor in FACTORS:
        if f"{factor:g}" in done:
            continue
        print(f"ends times {factor:g} ...", file=sys.stderr, flush=True)
        known = known or Yardstick.of(yardstick, asked.questions)
        variants = Variants.of(yardstick, with_ends_times(read, factor), RECIPES[precision], threads=1)
        with variants.opened(frozenset(variants.groups)) as candidate:
            loss = loss_of(known.measure(candidate), known.outcomes)
            errors = errors_of(candidate, yardstick, limits)
        row = {"factor": factor, "errors": errors, "drop": loss.drop, "drop_error": loss.drop_error}
        done.add(f"{factor:g}", row | {"loss": asdict(loss)})
    result: dict[str, Any] = {
        "what": f"{precision}, the ends of all codes moved by a factor",
        "method": read.method,
        "questions": len(asked.questions),
        "limits": limits,
        "rows": [done[f"{factor:g}"] for factor in FACTORS],
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
