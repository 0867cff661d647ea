"""aurora-export sensitivity: what each part of a model loses when only it is quantized, and which parts to keep."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.calibrate import INSTALL, NEEDED
from aurora_export.cli.measure import check_max_drop
from aurora_export.cli.options import PATH
from aurora_export.cli.program import Subcommand
from aurora_export.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from aurora_export.calibration.search import Found
    from aurora_export.calibration.sensitivity import Row

PRECISIONS = ("int8", "fp8", "int4")
"""Recipes of calibration/recipes.py, which is not imported for --help."""


@click.command("sensitivity", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.option("--scales", type=PATH, required=True, metavar="FILE", help="Of this bundle, made by `calibrate`.")
@click.option("--questions", type=PATH, required=True, metavar="FILE", help="JSON lines of video, prompt and answer.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="int8", show_default=True, help="To quantize to.")
@click.option("--sample", type=int, default=200, show_default=True, help="Questions for each line of the table.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Search for the groups to keep in float.")
@click.option("--out", type=PATH, metavar="FILE", help="The scales, with `keep` as found by --max-drop.")
@click.option("--resume", type=PATH, metavar="FILE", help="Keep what is measured here, and go on from it.")
@click.option("--threads", type=int, help="CPU threads.  [default: one per core]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sensitivity_command(
    *,
    bundle: Path,
    scales: Path,
    questions: Path,
    precision: str,
    sample: int,
    max_drop: float | None,
    out: Path | None,
    resume: Path | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Quantize one layer of BUNDLE, an fp32 bundle, or one kind of layer at a time, and print what each loses.

    With --max-drop, find as few groups as can be kept in float so that no more than so many points are lost, over all
    questions; `build --scales` of the file written by --out then leaves them in float.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DependencyError(f"sensitivity needs {', '.join(missing)}, not installed here", hint=INSTALL)

    from aurora_export.calibration.scales_file import write_scales
    from aurora_export.calibration.workbench import Workbench
    from aurora_export.cli.progress import Progress

    check_max_drop(max_drop)
    if sample < 1:
        raise UsageError(f"--sample is {sample}; at least 1 question is needed")
    if out is not None and max_drop is None:
        raise UsageError("--out is for what a search finds", hint="give --max-drop too")
    with Progress() as progress:
        progress.phase("open the bundle")
        bench = Workbench.open(bundle, scales, questions, precision, resume=resume, threads=threads)
        progress.phase("measure each part alone")
        table = bench.table(sample, progress.detail)
        found = None
        if max_drop is not None:
            progress.phase("search")
            found = bench.search(table, max_drop, progress.detail)
    if out is not None and found is not None:
        kept = tuple(dict.fromkeys((*bench.variants.scales.keep, *found.kept)))
        write_scales(bench.variants.scales.model_copy(update={"keep": kept}), out)
    _print(table, found, as_json=as_json)


def _print(table: list[Row], found: Found | None, *, as_json: bool) -> None:
    from aurora_export.calibration.gate import without_infinities
    from aurora_export.calibration.sensitivity import table_text

    if as_json:
        content: dict[str, Any] = {"table": [{**asdict(row), "drop": row.loss.drop} for row in table]}
        if found is not None:
            content["keep"] = list(found.kept)
            content["drop"], content["is_decided"] = found.verdict.loss.drop, found.verdict.is_decided
            content["loss"] = asdict(found.verdict.loss)
        click.echo(json.dumps(without_infinities(content), indent=2, allow_nan=False))
        return
    click.echo(table_text(table))
    if found is not None:
        click.echo(f"\nkeep in float: {', '.join(found.kept) or 'nothing'}\n{found.verdict.text}")
