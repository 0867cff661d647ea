r"""What quantized bundles lose against the fp32 one of the same checkpoint: answers, next tokens, drift.

    python testbed/write_questions.py build/noisy --questions 3000 --noise 60
    python benchmarks/record.py quantized -- python benchmarks/bench_quantized.py build/testbed.aurora \
        --questions build/noisy/questions.jsonl build/testbed-fp16.aurora build/testbed-int8.aurora

Each bundle is asked what the fp32 one was asked; losses are of paired answers. Any number of bundles may follow.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aurora_export.calibration.gate import Verdict, loss_of
from aurora_export.calibration.measures import Yardstick, remembering
from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.report import Report, make_report
from aurora_export.manifest import Manifest
from aurora_export.runtime.opened_bundle import open_bundle

GATE = {"int4-qdq": 2.0}
"""Precision -> points that it may lose; half a point where none is named."""

DEFAULT_GATE = 0.5


def row_of(report: Report, manifest: Manifest) -> dict[str, Any]:
    """What the result file holds about one bundle."""
    loss = report.loss
    verdict = Verdict(loss, GATE.get(report.precision, DEFAULT_GATE))
    return {
        "precision": report.precision,
        "name": report.name,
        "megabytes": round(sum(entry.size for entry in manifest.digests.values()) / 1e6, 2),
        "errors_of_the_build": {name: found.error for name, found in manifest.verification.outputs.items()},
        "loss": asdict(loss),
        "drop": loss.drop,
        "drop_error": loss.drop_error,
        "gate": {"max_drop": verdict.max_drop, "holds": verdict.holds, "is_decided": verdict.is_decided},
        "bounds": verdict.bounds,
        "visual": asdict(report.visual),
        "drift": [asdict(drift) for drift in report.drift],
    }


@click.command()
@click.argument("yardstick", type=click.Path(path_type=Path))
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--questions", type=click.Path(path_type=Path), required=True, help="JSON lines.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(yardstick: Path, bundles: tuple[Path, ...], questions: Path, threads: int) -> None:
    """Print one JSON object."""
    start = time.monotonic()
    asked = read_questions(questions)
    base = remembering(open_bundle(yardstick, threads=threads))
    known = Yardstick.of(base, asked.questions)
    rows = []
    for bundle in bundles:
        print(f"{bundle} ...", file=sys.stderr, flush=True)
        opened = open_bundle(bundle, threads=threads)
        rows.append(row_of(make_report(opened, base, asked, known=known), opened.manifest))
    result = {
        "what": "bundles against the fp32 one of the same checkpoint, the same questions, greedy",
        "questions": len(asked.questions),
        "videos": len(asked.videos),
        "accuracy_fp32": loss_of(known.outcomes, known.outcomes).accuracy,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "rows": rows,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
