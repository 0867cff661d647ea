"""aurora-export build --scales and --error-feedback: what a calibration has to say about the graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.options import PATH, Command
from aurora_export.errors import UsageError

if TYPE_CHECKING:
    from aurora_export.export.feedback_rounding import FeedbackRounding
    from aurora_export.export.quantizer import Quantizer

WEIGHT_ONLY = ("int8", "int4")
"""Of --precision: keeps weights as integers without --scales."""

NEED_SCALES = ("fp8",)
WITH_SCALES = (*WEIGHT_ONLY, *NEED_SCALES)


def quantization_options(command: Command) -> Command:
    """What goes with a calibration."""
    for option in reversed(
        (
            click.option(
                "--scales", type=PATH, metavar="FILE", help="Quantize activations too, explicitly: see calibrate."
            ),
            click.option(
                "--keep", multiple=True, metavar="GROUP", help="With --scales: leave layers float, as language.*.att.o."
            ),
            click.option(
                "--rest", type=click.Choice(("fp32", "fp16")), help="With --scales: of all else.  [default: fp32]"
            ),
            click.option("--error-feedback", is_flag=True, help="Round weights by second moments: see calibrate."),
            click.option(
                "--moments", type=PATH, metavar="FILE", help="For --error-feedback without --scales: a scale file."
            ),
        )
    ):
        command = option(command)
    return command


def check_quantization(params: Mapping[str, Any]) -> None:
    """Raise UsageError for options without the ones that they need, and for a calibration without a use.

    params: of `build`, by their names there.
    """
    precision, scales, moments = params["precision"], params["scales"], params["moments"]
    if scales is not None:
        _require(precision, WITH_SCALES, "--scales")
        if moments is not None:
            raise UsageError(
                "--moments is for builds without --scales, whose moments lie beside them", hint="leave it out"
            )
        return
    if precision in NEED_SCALES:
        raise UsageError(f"--precision {precision} needs --scales", hint="aurora-export calibrate makes them")
    for name in ("keep", "rest"):
        if params[name]:
            raise UsageError(f"--{name} has no meaning without --scales", hint="leave it out")
    if not params["error_feedback"]:
        if moments is not None:
            raise UsageError("--moments is for --error-feedback", hint="give both")
        return
    _require(precision, WEIGHT_ONLY, "--error-feedback")
    if moments is None:
        raise UsageError(
            "--error-feedback needs second moments",
            hint="give --moments FILE, or --scales FILE, from aurora-export calibrate --second-moments",
        )


def _require(precision: str, usable: tuple[str, ...], option: str) -> None:
    if precision not in usable:
        raise UsageError(f"{option} has no use at {precision}", hint=f"give --precision {' or '.join(usable)}")


def opened_calibration(params: Mapping[str, Any]) -> tuple[Quantizer | None, FeedbackRounding | None]:
    """What writes explicit quantization, and what rounds weight-only integers; at most one of them.

    params: as for `check_quantization`, checked. Raises what reading the files raises.
    """
    if params["scales"] is not None:
        from aurora_export.export.quantizer import open_quantizer

        quantizer = open_quantizer(
            params["scales"],
            params["precision"],
            keep=params["keep"],
            rest=params["rest"] or "fp32",
            error_feedback=params["error_feedback"],
        )
        return quantizer, None
    if params["moments"] is not None:
        from aurora_export.export.feedback_rounding import open_feedback_rounding

        return None, open_feedback_rounding(params["moments"])
    return None, None
