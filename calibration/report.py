"""The report of a quantized model: what it loses, where and how surely, as a page with plots and as JSON.

It stands in the bundle as reports/accuracy.html and reports/accuracy.json, named in the manifest like every file.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aurora_export.calibration.drift import Drift, measure_drift
from aurora_export.calibration.gate import Loss, Verdict, loss_of, without_infinities
from aurora_export.calibration.measures import Outcome, Yardstick, require_same_model
from aurora_export.calibration.questions import Questions
from aurora_export.calibration.svg import bar_plot, line_plot
from aurora_export.calibration.visual_measures import VisualLoss, compare_visual, frames_of
from aurora_export.manifest import Manifest, hash_file, read_manifest, write_manifest
from aurora_export.runtime.opened_bundle import OpenedBundle

if TYPE_CHECKING:  # it needs onnx, and measuring a bundle does not
    from aurora_export.calibration.sensitivity import Row

PAGE, DATA = "reports/accuracy.html", "reports/accuracy.json"
FORMAT = 1
N_VISUAL_FRAMES = 64

STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}"
)


@dataclass(frozen=True)
class Report:
    """Everything that was measured about one bundle."""

    name: str
    precision: str
    yardstick: str
    """precision of the bundle that it was compared with"""
    questions_digest: str
    loss: Loss
    by_kind: dict[str, Loss]
    """kind of question -> the loss over these; empty if they have no kinds"""
    visual: VisualLoss
    drift: list[Drift]
    max_drop: float | None = None
    """points that the gate allows; None: there was no gate"""
    sensitivity: tuple[Row, ...] = ()
    kept: tuple[str, ...] = ()
    """groups that stayed in float"""

    @property
    def verdict(self) -> Verdict | None:
        """Of the gate, if there was one."""
        return None if self.max_drop is None else Verdict(self.loss, self.max_drop)

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        verdict = self.verdict
        found: dict[str, Any] = {"format": FORMAT, **asdict(self)}
        found["drop"], found["drop_error"] = self.loss.drop, self.loss.drop_error
        if verdict is not None:
            found["verdict"] = {
                "holds": verdict.holds,
                "is_decided": verdict.is_decided,
                "bounds": verdict.bounds,
                "text": verdict.text,
            }
        return dict(without_infinities(found))


def make_report(
    candidate: OpenedBundle,
    yardstick: OpenedBundle,
    questions: Questions,
    *,
    max_drop: float | None = None,
    known: Yardstick | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Measure a bundle against another one of the same model.

    known: the yardstick's answers to these questions, if they were made before.  say: called with how far it is.
    Raises IncompatibleError for another model, AccuracyError if an output is not finite, and what videos raise.
    """
    require_same_model(yardstick, candidate)
    videos = list(questions.videos)
    if known is None:
        known = Yardstick.of(yardstick, questions.questions, progress=lambda share: say(f"yardstick: {share:.0%}"))
    outcomes = known.measure(candidate, lambda share: say(f"questions: {share:.0%}"))
    frames = np.stack(list(islice(frames_of(yardstick, videos), N_VISUAL_FRAMES)))
    drift = measure_drift(candidate, yardstick, videos, progress=lambda share: say(f"drift: {share:.0%}"))
    return Report(
        name=candidate.manifest.name,
        precision=candidate.manifest.precision,
        yardstick=yardstick.manifest.precision,
        questions_digest=questions.digest,
        loss=loss_of(outcomes, known.outcomes),
        by_kind=_by_kind(outcomes, known.outcomes),
        visual=compare_visual(_run_one_by_one(candidate, frames), _run_one_by_one(yardstick, frames)),
        drift=drift,
        max_drop=max_drop,
    )


def _run_one_by_one(opened: OpenedBundle, frames: np.ndarray) -> dict[str, np.ndarray]:
    outputs = [opened.vision.run({"frames": frame[None]}) for frame in frames]
    return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}


def _by_kind(candidate: Sequence[Outcome], yardstick: Sequence[Outcome]) -> dict[str, Loss]:
    kinds = [kind for kind in dict.fromkeys(outcome.question.kind for outcome in yardstick) if kind]
    return {
        kind: loss_of(*([one for one in side if one.question.kind == kind] for side in (candidate, yardstick)))
        for kind in kinds
    }


def lines_of(report: Report) -> list[str]:
    """What a command prints of it."""
    loss, visual = report.loss, report.visual
    lines = []
    if loss.accuracy is not None and loss.yardstick_accuracy is not None:
        lines.append(
            f"accuracy {100 * loss.accuracy:.1f} %, {report.yardstick} {100 * loss.yardstick_accuracy:.1f} %: "
            f"{0.0 - loss.drop:+.2f} ± {loss.drop_error:.2f} points ({loss.n_lost} lost, {loss.n_gained} gained, "
            f"of {loss.n_questions})"
        )
    lines.append(f"answers that are other texts: {loss.n_changed} of {loss.n_questions}")
    lines.append(f"same next token: {100 * loss.agreement:.2f} ± {100 * loss.agreement_error:.2f} %")
    lines.append(f"KL of the next token: {loss.kl:.2e} ± {loss.kl_error:.0e} nats")
    lines.append(f"visual tokens as a set: pooled cosine {visual.pooled:.5f}, matched {visual.matched:.5f}")
    last = report.drift[-1]
    lines.append(
        f"after {last.n_tokens} tokens: state off by {max(last.states.values()):.2g}, logits {last.logits:.2g}"
    )
    return lines


def files_of(report: Report) -> dict[str, bytes]:
    """Path in the bundle -> content."""
    data = json.dumps(report.as_dict(), indent=2, allow_nan=False) + "\n"
    return {PAGE: page_of(report).encode(), DATA: data.encode()}


def page_of(report: Report) -> str:
    """The page: HTML with the plots inside, no script, nothing that is fetched."""
    parts = [f"<h1>{escape(report.name)}: {escape(report.precision)} beside {escape(report.yardstick)}</h1>"]
    if (verdict := report.verdict) is not None:
        parts.append(f"<p><strong>{'PASS' if verdict.holds else 'FAIL'}</strong>: {escape(verdict.text)}.</p>")
    parts.append("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines_of(report)) + "</ul>")
    if report.kept:
        parts.append(f"<p>Left in float: {escape(', '.join(report.kept))}.</p>")
    if report.by_kind:
        rows = [[kind, *_loss_cells(loss)] for kind, loss in report.by_kind.items()]
        parts += ["<h2>By kind of question</h2>", _table(["kind", "questions", "points", "KL, nats"], rows)]
    parts += ["<h2>Drift with the length of the sequence</h2>", _drift_plot(report.drift), _drift_table(report.drift)]
    if report.sensitivity:
        rows = [[row.name, row.by, *_loss_cells(row.loss)] for row in report.sensitivity]
        bars = [(row.name, row.loss.kl) for row in report.sensitivity if row.by == "kind"]
        parts += ["<h2>Quantized alone</h2>", bar_plot(bars, label="KL of the next token, nats")]
        parts.append(_table(["part", "by", "questions", "points", "KL, nats"], rows))
    parts.append(f"<p>Questions: SHA-256 {report.questions_digest}. Numbers: accuracy.json.</p>")
    title = f"<title>{escape(report.name)}: accuracy</title>"
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8">{title}<style>{STYLE}</style></head>'
    return f"{head}<body>\n" + "\n".join(parts) + "\n</body></html>\n"


def _loss_cells(loss: Loss) -> list[str]:
    return [str(loss.n_questions), f"{0.0 - loss.drop:+.2f} ± {loss.drop_error:.2f}", f"{loss.kl:.2e}"]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _drift_plot(drift: Sequence[Drift]) -> str:
    lines = {name: [(row.n_tokens, row.states[name]) for row in drift] for name in drift[0].states}
    lines["logits"] = [(row.n_tokens, row.logits) for row in drift]
    return line_plot(lines, x_label="tokens read", y_label="relative distance")


def _drift_table(drift: Sequence[Drift]) -> str:
    names = list(drift[0].states)
    rows = [
        [
            str(row.n_tokens),
            *(f"{row.states[name]:.2e}" for name in names),
            f"{row.logits:.2e}",
            f"{row.kl:.2e}",
            "yes" if row.is_same_token else "no",
        ]
        for row in drift
    ]
    return _table(["tokens", *names, "logits", "KL, nats", "same next token"], rows)


def add_to_bundle(bundle: Path, files: Mapping[str, bytes]) -> Manifest:
    """Put reports into a finished bundle, in the place of older ones, and name them in its manifest.

    If the machine stops between the two, the bundle is refused for files that its manifest does not name or has
    otherwise: remove them, and add the report again. Raises what `read_manifest` raises, OSError.
    """
    manifest = read_manifest(bundle)
    folder = Path(tempfile.mkdtemp(dir=bundle.resolve().parent, prefix=f".{bundle.resolve().name}.reports-"))
    try:
        digests = dict(manifest.digests)
        for relative, content in files.items():
            path = folder / Path(relative).name
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            digests[relative] = hash_file(path)
        for relative in files:
            (bundle / relative).parent.mkdir(exist_ok=True)
            (folder / Path(relative).name).replace(bundle / relative)
        updated = manifest.model_copy(update={"digests": dict(sorted(digests.items()))})
        write_manifest(bundle, updated)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return updated
