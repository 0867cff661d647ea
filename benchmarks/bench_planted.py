r"""Quantization of a model of any size with planted outlier channels, where no accuracy exists: errors only.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    aurora-export build build/released --out build/full_size/fp32.aurora
    python testbed/write_questions.py build/clips --questions 40
    python benchmarks/record.py full_size_planted -- python benchmarks/bench_planted.py build/full_size/fp32.aurora \
        --clips build/clips/questions.jsonl --work build/full_size

BUNDLE is copied, and what layers read gets channels sixty times as large where something before can carry the factor;
the model computes what it did. Then it is calibrated without and with smoothing, quantized by the recipe, and compared
with float32: visual tokens as a set, and state and logits against the length of the sequence.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from bench_calibration import N_OUTLIERS, OUTLIER_FACTOR, Quiet, plant_outliers

from aurora_export.calibration.calibrate import Method, calibrate
from aurora_export.calibration.clips import Clip, Showing
from aurora_export.calibration.drift import LENGTHS, measure_drift
from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.recipes import RECIPES
from aurora_export.calibration.variants import Variants
from aurora_export.calibration.visual_measures import compare_visual, frames_of
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle

N_HELD_OUT = 8
ANSWER_TOKENS = 8


def run_frames(opened: OpenedBundle, frames: np.ndarray) -> dict[str, np.ndarray]:
    """All outputs of the vision graph, a frame at a time."""
    runs = [opened.vision.run({"frames": frame[None]}) for frame in frames]
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def measure(
    bundle: Path, videos: list[str], n_clips: int, method: Method, precision: str, length: int
) -> dict[str, Any]:
    """One row: a calibration of the planted bundle, and what is lost with it."""
    with tempfile.TemporaryDirectory(dir=bundle.parent) as folder:
        start = time.monotonic()
        scales, _ = calibrate(
            bundle,
            [Clip(Path(video)) for video in videos[:n_clips]],
            Path(folder) / "scales.json",
            progress=Quiet(),
            showing=Showing(answer_tokens=ANSWER_TOKENS),
            method=method,
        )
        seconds = time.monotonic() - start
        yardstick = open_bundle(bundle, verify=False)
        variants = Variants.of(yardstick, scales, RECIPES[precision])
        with variants.opened(frozenset(variants.groups), folder=Path(folder)) as candidate:
            frames = np.stack(list(islice(frames_of(yardstick, videos[n_clips:]), N_HELD_OUT)))
            visual = compare_visual(run_frames(candidate, frames), run_frames(yardstick, frames))
            lengths = [*(n for n in LENGTHS if n < length), length]
            drift = measure_drift(candidate, yardstick, videos[n_clips:], lengths=lengths)
    return {
        "method": str(method),
        "calibration_s": round(seconds, 1),
        "visual": asdict(visual),
        "drift": [asdict(row) for row in drift],
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--clips", type=click.Path(path_type=Path), required=True, help="Questions, for their videos.")
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Folder for a copy of the bundle.")
@click.option("--n-clips", type=int, default=4, show_default=True, help="To calibrate on; the next ones are measured.")
@click.option("--precision", default="int8", show_default=True, help="Recipe.")
@click.option("--length", type=int, default=1024, show_default=True, help="Tokens up to which drift is followed.")
def main(bundle: Path, clips: Path, work: Path, n_clips: int, precision: str, length: int) -> None:
    """Print one JSON object."""
    start = time.monotonic()
    videos = list(read_questions(clips).videos)
    if len(videos) <= n_clips:
        raise click.ClickException(f"{clips} has {len(videos)} videos; more than {n_clips} are needed")
    with tempfile.TemporaryDirectory(dir=work) as folder:
        planted_bundle = Path(shutil.copytree(bundle, Path(folder) / "planted.aurora"))
        planted = plant_outliers(planted_bundle, "*")
        rows = []
        for method in (Method(smoothing=None), Method(smoothing="auto"), Method(smoothing=0.5)):
            print(f"{method} ...", file=sys.stderr, flush=True)
            rows.append(measure(planted_bundle, videos, n_clips, method, precision, length))
    result = {
        "what": f"{precision} of a model with planted outliers against float32",
        "planted": f"{N_OUTLIERS} channels at {len(planted)} sites, {OUTLIER_FACTOR:g} times",
        "clips": n_clips,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "rows": rows,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
