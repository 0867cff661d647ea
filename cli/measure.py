"""aurora-export measure: what a bundle's answers lose against those of another bundle of the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurora_export.cli.options import PATH
from aurora_export.cli.program import Subcommand
from aurora_export.errors import EXIT_ACCURACY, EXIT_OK, UsageError

if TYPE_CHECKING:
    from aurora_export.calibration.report import Report
    from aurora_export.cli.progress import Progress


@click.command("measure", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.option("--against", type=PATH, required=True, metavar="BUNDLE", help="The yardstick: the same model at fp32.")
@click.option("--questions", type=PATH, required=True, metavar="FILE", help="JSON lines of video, prompt and answer.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Fail if more is lost.")
@click.option("--report", is_flag=True, help="Put the report into BUNDLE, as reports/accuracy.html and .json.")
@click.option("--threads", type=int, help="CPU threads.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def measure_command(
    *,
    bundle: Path,
    against: Path,
    questions: Path,
    max_drop: float | None,
    report: bool,
    threads: int | None,
    as_json: bool,
) -> int:
    """Ask BUNDLE and a yardstick the same questions, and say what is lost.

    Each line of FILE is a question: {"video": "clip.mp4", "prompt": "How many?", "answer": "two"}. With answers the
    loss is one of accuracy, without of tokens that the yardstick would have said too. Losses are of paired answers and
    have a standard error. With --max-drop the last line is PASS or FAIL; exit code 5 if it fails.
    """
    from aurora_export.calibration.questions import read_questions
    from aurora_export.calibration.report import make_report
    from aurora_export.cli.progress import Progress
    from aurora_export.runtime.opened_bundle import open_bundle

    check_max_drop(max_drop)
    asked = read_questions(questions)
    with Progress() as progress:
        progress.phase("open both bundles")
        yardstick, candidate = (
            open_bundle(path, threads=threads, progress=lambda path, _: progress.detail(path))
            for path in (against, bundle)
        )
        progress.phase("measure")
        found = make_report(candidate, yardstick, asked, max_drop=max_drop, say=progress.detail)
        if report:
            _add(bundle, found, progress)
    print_report(found, as_json=as_json)
    return EXIT_OK if found.verdict is None or found.verdict.holds else EXIT_ACCURACY


def check_max_drop(max_drop: float | None) -> None:
    """Refuse what is no number of points."""
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop is {max_drop:g}; points are from 0 to 100")


def _add(bundle: Path, report: Report, progress: Progress) -> None:
    from aurora_export.calibration.report import add_to_bundle, files_of

    progress.phase("put the report into the bundle")
    add_to_bundle(bundle, files_of(report))


def print_report(report: Report, *, as_json: bool) -> None:
    """On stdout, ending with the verdict if there was a gate."""
    from aurora_export.calibration.report import lines_of

    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2, allow_nan=False))
        return
    click.echo("\n".join(lines_of(report)))
    if report.verdict is not None:
        click.echo(f"{report.verdict.text}\n{'PASS' if report.verdict.holds else 'FAIL'}")
