"""aurora-export build --max-drop: a bundle that loses too much is not written, and its layers to keep are named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aurora_export.cli.measure import check_max_drop
from aurora_export.cli.sensitivity import PRECISIONS
from aurora_export.errors import AccuracyError, UsageError

if TYPE_CHECKING:
    from aurora_export.cli.progress import Progress
    from aurora_export.manifest import Manifest
    from aurora_export.model.checkpoint import LoadedCheckpoint

HINT = "JSON lines of video, prompt and answer"
SAMPLE = 200
"""Questions for each line of the table that says what to keep."""


@dataclass(frozen=True)
class GateOptions:
    """What the user asked for."""

    out: Path
    """the bundle that is built; that of fp32 is made beside it"""
    max_drop: float
    questions: Path
    against: Path | None
    """an fp32 bundle of the checkpoint; None: it is built for the comparison"""
    scales: Path | None
    precision: str
    keep: tuple[str, ...] = ()
    error_feedback: bool = False


def gate_options(params: Mapping[str, Any]) -> GateOptions | None:
    """Check options that belong together, before anything long is begun; None if no gate was asked for.

    params: of `build`, by their names there.  Raises UsageError, and what `read_questions` raises.
    """
    max_drop, questions, precision = params["max_drop"], params["questions"], params["precision"]
    if max_drop is None:
        for name in ("questions", "against"):
            if params[name] is not None:
                raise UsageError(f"--{name} is for --max-drop", hint="give --max-drop POINTS too, as 0.5")
        return None
    check_max_drop(max_drop)
    if questions is None:
        raise UsageError("--max-drop needs questions", hint=f"give --questions FILE, {HINT}")
    if precision == "fp32":
        raise UsageError("--max-drop compares with fp32, and that is what is built", hint="give another --precision")
    from aurora_export.calibration.questions import read_questions

    read_questions(questions)
    names = [field.name for field in fields(GateOptions)]
    return GateOptions(**{name: params[name] for name in names})


class Gate:
    """What a build calls with its finished folder, as `accept` of `build_bundle`."""

    def __init__(self, options: GateOptions, against: Path, progress: Progress) -> None:
        """against: the fp32 bundle to compare with."""
        self._options, self._against, self._progress = options, against, progress
        self.lines: list[str] = []
        """what was measured, for the summary"""

    def __call__(self, folder: Path) -> Manifest:
        """Add the report to a finished bundle and return its manifest; AccuracyError if it loses too much."""
        from aurora_export.calibration.questions import read_questions
        from aurora_export.calibration.report import add_to_bundle, files_of, lines_of, make_report
        from aurora_export.runtime.opened_bundle import open_bundle

        asked = read_questions(self._options.questions)
        yardstick, candidate = open_bundle(self._against), open_bundle(folder, verify=False)
        say = self._progress.detail
        report = make_report(candidate, yardstick, asked, max_drop=self._options.max_drop, say=say)
        verdict = report.verdict
        assert verdict is not None
        if not verdict.holds:
            advice = _advice(self._against, self._options, self._progress)
            raise AccuracyError(verdict.text, hint=f"nothing was written; {advice}")
        self.lines = [*lines_of(report), verdict.text]
        return add_to_bundle(folder, files_of(report))


@contextmanager
def gate(options: GateOptions | None, loaded: LoadedCheckpoint, progress: Progress) -> Iterator[Gate | None]:
    """Yield the gate that was asked for, or None.

    The fp32 bundle to compare with is the one given, or is built first and removed in the end.
    """
    if options is None:
        yield None
        return
    from aurora_export.export.bundle import build_bundle

    # On the disk of the bundle: temporary files may have little room.
    beside = next(parent for parent in options.out.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=".aurora-fp32-", dir=beside) as folder:
        against = options.against
        if against is None:
            against = Path(folder) / "fp32.aurora"
            build_bundle(loaded, against, precision="fp32", progress=progress)
        _check_yardstick(against, loaded)
        yield Gate(options, against, progress)


def _check_yardstick(against: Path, loaded: LoadedCheckpoint) -> None:
    from aurora_export.errors import IncompatibleError
    from aurora_export.manifest import read_manifest

    manifest = read_manifest(against)
    if manifest.precision != "fp32":
        raise UsageError(f"{against}: is {manifest.precision}; the yardstick is fp32", hint="leave --against out")
    if manifest.config != loaded.config:
        raise IncompatibleError(
            f"{against}: was built with another configuration than this checkpoint", hint="leave --against out"
        )


def _advice(against: Path, options: GateOptions, progress: Progress) -> str:
    """Which groups to keep, found by a search, for a build with scales; else what else there is to do."""
    if options.scales is None or options.precision not in PRECISIONS:
        return f"build with another --precision, or accept more than {options.max_drop:g} points"
    from aurora_export.calibration.workbench import Workbench

    bench = Workbench.open(
        against,
        options.scales,
        options.questions,
        options.precision,
        keep=options.keep,
        error_feedback=options.error_feedback,
    )
    progress.phase("measure each part alone")
    table = bench.table(SAMPLE, progress.detail)
    progress.phase("search for what to keep")
    try:
        found = bench.search(table, options.max_drop, progress.detail)
    except AccuracyError as error:
        return error.message
    if not found.kept:
        return "with float32 beside it the same quantization passes: leave out --rest fp16"
    keep = " ".join(f"--keep {group}" for group in (*options.keep, *found.kept))
    return f"build with {keep}\nThen {found.verdict.text}"
