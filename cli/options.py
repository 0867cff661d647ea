"""Options that several commands share, and the values they take: times, sizes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from aurora_export.errors import UsageError
from aurora_export.runtime.device import CHOICE

Command = TypeVar("Command", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)

_TIME_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE_UNITS |= {f"{unit}i": 2 ** (10 * power) for power, unit in enumerate("kmgt", start=1)}


class Time(click.ParamType):
    """A time or duration in seconds: 90, 90s, 1.5m, 2h, 12:30, 1:02:03."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        text = str(value).strip().lower()
        if match := re.fullmatch(r"(?:(\d{1,6}):)?(\d{1,6}):([0-5]?\d(?:\.\d+)?)", text):
            hours, minutes, seconds = match.groups()
            return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds)
        if match := re.fullmatch(r"(\d{1,12}(?:\.\d+)?)([smhd]?)", text):
            return float(match[1]) * _TIME_UNITS[match[2]]
        self.fail(f"{value!r} is no time: 90, 90s, 1.5m, 2h, 12:30 and 1:02:03 are", param, ctx)


class Size(click.ParamType):
    """A number of bytes: 500000, 500MB, 2GB, 64MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12}(?:\.\d+)?) ?([kmgt]?i?)b?", str(value).strip().lower())
        if match is None or match[2] == "i":
            self.fail(f"{value!r} is no size: 500MB, 2GB and 64MiB are", param, ctx)
        return int(float(match[1]) * _SIZE_UNITS[match[2]])


def time_text(seconds: float | None) -> str:
    """12:30, or 1:02:03.5; `an unknown time` for None."""
    if seconds is None:
        return "an unknown time"
    minutes, rest = divmod(round(seconds, 3), 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:06.3f}".rstrip("0").rstrip(".")
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"


def size_text(n_bytes: int) -> str:
    """13.0 MB, or 87.3 kB."""
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"


def sampling_options(command: Command) -> Command:
    """How an answer is made, from --max-tokens to --seed."""
    for option in reversed(
        (
            click.option("--max-tokens", type=int, default=256, show_default=True, help="Longest answer."),
            click.option(
                "--temperature", type=float, default=0.0, show_default=True, help="0: the most likely token, always."
            ),
            click.option(
                "--top-p", type=float, default=1, show_default=True, help="Draw from the likeliest of this sum."
            ),
            click.option("--top-k", type=int, default=0, show_default=True, help="Draw from this many tokens; 0: all."),
            click.option(
                "--presence-penalty", type=float, default=0.0, show_default=True, help="Against tokens already said."
            ),
            click.option(
                "--frequency-penalty", type=float, default=0.0, show_default=True, help="The same, for each time."
            ),
            click.option("--seed", type=int, default=0, show_default=True, help="Of the draws."),
        )
    ):
        command = option(command)
    return command


def frame_options(command: Command) -> Command:
    """Which frames are watched."""
    command = click.option("--num-frames", type=int, help="Frames to watch, spread evenly, instead of a rate.")(command)
    return click.option("--fps", type=float, help="Frames to watch per second of video.  [default: 1]")(command)


def engine_options(command: Command) -> Command:
    """Where the model runs."""
    command = click.option(
        "--device",
        default="cpu",
        show_default=True,
        help=f"Where to run: {CHOICE}; cuda:1 is the second GPU.",
    )(command)
    return click.option("--threads", type=int, help="CPU threads.  [default: one per core]")(command)


def ahead_option(command: Command) -> Command:
    """How far a video file is read ahead."""
    text = "Frames to decode ahead, in one more thread.  [default: 2; 0 on one thread]"
    return click.option("--ahead", "n_ahead", type=int, metavar="N", help=text)(command)


def check_frame_options(fps: float | None, num_frames: int | None) -> None:
    """Refuse both at once, by the names that they have here."""
    if fps is not None and num_frames is not None:
        raise UsageError("--fps and --num-frames exclude each other", hint="give the rate or the number of frames")


def check_max_tokens(max_tokens: int) -> None:
    """Refuse an answer of no tokens."""
    if max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}; at least 1 is needed")
