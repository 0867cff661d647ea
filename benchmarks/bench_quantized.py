r"""What quantized bundles lose against the fp32 one of the same checkpoint: answers, next tokens, drift.

    python testbed/write_questions.py build/noisy --questions 3000 --noise 60
    python benchmarks/record.py quantized -- python benchmarks/bench_quantized.py build/testbed.aurora \
        --questions build/noisy/questions.jsonl build/testbed-fp16.aurora build/testbed-int8.aurora

    python testbed/write_questions.py build/plain --questions 2000 --seed 7    # no more noise than in the training

The same on build/plain/questions.jsonl is `quantized_without_noise`. Each bundle is asked what the fp32 one was asked;
losses are of paired answers. Any number of bundles may follow. With --resume FILE a bundle that was measured before, by
this commit and on these questions, is not measured again.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from environment import environment
from resumed import Rows

from aurora_export.calibration.gate import Verdict
from aurora_export.calibration.measures import Yardstick, remembering
from aurora_export.calibration.questions import read_questions
from aurora_export.calibration.report import Report, make_report
from aurora_export.manifest import Manifest, read_manifest
from aurora_export.runtime.opened_bundle import open_bundle

GATE = {"int4": 2.0, "int4-qdq": 2.0}
"""Precision -> points that it may lose; half a point where none is named."""

DEFAULT_GATE = 0.5


def row_of(report: Report, manifest: Manifest) -> dict[str, Any]:
    """What the result file holds about one bundle."""
    loss = report.loss
    verdict = Verdict(loss, GATE.get(report.precision, DEFAULT_GATE))
    return {
        "precision": report.precision,
        "name": report.name,
        "method": None if manifest.quantization is None else manifest.quantization.method,
        "error_feedback": manifest.quantization is not None and manifest.quantization.error_feedback,
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
@click.option("--resume", type=click.Path(path_type=Path), help="JSON lines of what was measured; appended to.")
@click.option("--threads", type=int, default=1, show_default=True)
def main(yardstick: Path, bundles: tuple[Path, ...], questions: Path, resume: Path | None, threads: int) -> None:
    """Print one JSON object."""
    asked = read_questions(questions)
    base = remembering(open_bundle(yardstick, threads=threads))
    identity = {"yardstick": base.fingerprint, "questions": asked.digest, "commit": environment()["commit"]}
    done = Rows(resume, identity)
    known = None
    fingerprints = [read_manifest(bundle).fingerprint for bundle in bundles]
    for bundle, fingerprint in zip(bundles, fingerprints, strict=True):
        if fingerprint in done:
            continue
        opened = open_bundle(bundle, threads=threads)
        print(f"{bundle} ...", file=sys.stderr, flush=True)
        start = time.monotonic()
        known = known or Yardstick.of(base, asked.questions)
        row = row_of(make_report(opened, base, asked, known=known), opened.manifest)
        row["minutes"] = round((time.monotonic() - start) / 60, 1)
        done.add(fingerprint, row)
    rows = [done[fingerprint] for fingerprint in fingerprints]
    result = {
        "what": "bundles against the fp32 one of the same checkpoint, the same questions, greedy",
        "questions": len(asked.questions),
        "videos": len(asked.videos),
        "accuracy_fp32": rows[0]["loss"]["yardstick_accuracy"],
        "rows": rows,
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
