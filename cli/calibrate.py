"""aurora-export calibrate: clips through a float32 bundle to a scale file."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aurora_export.cli.options import PATH
from aurora_export.cli.program import Subcommand
from aurora_export.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from aurora_export.calibration.scales_file import Scales

METHODS = ("mse", "max", "percentile", "entropy")
"""Those of calibration/ranges.py, which is not imported for --help."""

NEEDED = ("onnx", "onnxruntime", "onnx_ir", "ml_dtypes")
INSTALL = "pip install 'aurora-export[export,cpu]'"


class Alpha(click.ParamType):
    """A number, `auto`, or `none`."""

    name = "alpha"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As `calibrate_command` takes it; its range is checked by `Method`."""
        try:
            return value if value in ("auto", "none") else float(value)
        except ValueError:
            self.fail(f"{value!r} is no number from 0 to 1, and neither auto nor none", param, ctx)


@click.command("calibrate", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.option("--data", type=PATH, required=True, metavar="PATH", help="Folder of videos, or JSONL: video, prompt.")
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE", help="The scale file to write, as scales.json.")
@click.option("--method", type=click.Choice(METHODS), default="mse", show_default=True, help="How ranges are chosen.")
@click.option("--percentile", type=float, metavar="P", help="Of values not clipped, for that method.  [default: 99.99]")
@click.option(
    "--smooth",
    type=Alpha(),
    default="auto",
    show_default=True,
    help="Even out channels: from 0 to 1, auto: where it helps, or none.",
)
@click.option(
    "--second-moments",
    multiple=True,
    metavar="GROUP",
    help="Keep those of layers for --error-feedback, as language.*; repeatable.",
)
@click.option("--num-frames", type=int, default=8, show_default=True, help="Frames of each clip, spread evenly.")
@click.option("--max-tokens", type=int, default=32, show_default=True, help="Longest answer about each clip.")
@click.option("--threads", type=int, help="CPU threads.  [default: one per core]")
def calibrate_command(
    *,
    bundle: Path,
    data: Path,
    out: Path,
    method: str,
    percentile: float | None,
    smooth: float | Literal["auto", "none"],
    second_moments: tuple[str, ...],
    num_frames: int,
    max_tokens: int,
    threads: int | None,
) -> None:
    """Measure what the layers of BUNDLE, of precision fp32, see on clips, and write the ranges for quantization.

    An interrupted run goes on where it was. A scale file of the same model, clips and options is not made again.
    """
    if percentile is not None and method != "percentile":
        raise UsageError("--percentile is for --method percentile", hint="leave it out, or name the method")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}; at least 1 is needed")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DependencyError(f"calibrate needs {', '.join(missing)}, not installed here", hint=INSTALL)

    from aurora_export.calibration.calibrate import Method, calibrate
    from aurora_export.calibration.clips import Showing, read_clips
    from aurora_export.calibration.ranges import DEFAULT_PERCENTILE
    from aurora_export.cli.progress import Progress

    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"{out}: is no file that can be written", hint="give --out FILE in a folder that exists")
    chosen = Method(
        method,
        percentile=DEFAULT_PERCENTILE if percentile is None else percentile,
        smoothing=None if smooth == "none" else smooth,
        moments_of=second_moments,
    )
    showing = Showing(num_frames=num_frames, answer_tokens=max_tokens)
    with Progress() as progress:
        scales, is_new = calibrate(
            bundle, read_clips(data), out, progress=progress, showing=showing, method=chosen, threads=threads
        )
    click.echo(_summary(out, scales, is_new=is_new))


def _summary(out: Path, scales: Scales, *, is_new: bool) -> str:
    data, residual = scales.data, scales.residual
    dead = sum(entry.dead_channels > 0 for entry in scales.tensors.values())
    lines = [
        f"{out}: {len(scales.tensors)} tensors, method {scales.method}{'' if is_new else ', as it was'}",
        f"  from {data.clips} clips: {data.frames} frames, {data.tokens} tokens in runs, {data.steps} one by one",
        f"  residual stream up to {residual.maximum:g}; a float16 graph divides it by {residual.divisor}",
    ]
    if dead:
        lines.append(f"  {dead} tensors have channels that are zero throughout (dead_channels in the file)")
    return "\n".join(lines)
