"""aurora-export run: bundle, video and prompt to an answer."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.answers import without_leading_space
from aurora_export.cli.options import (
    ahead_option,
    check_frame_options,
    check_max_tokens,
    engine_options,
    frame_options,
    sampling_options,
)
from aurora_export.cli.program import Subcommand

if TYPE_CHECKING:
    from aurora_export.runtime.session import Aurora
    from aurora_export.runtime.stages import WatchReport

_log = logging.getLogger(__name__)


@click.command("run", cls=Subcommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("video", type=click.Path(path_type=Path))
@click.option("--prompt", required=True, metavar="TEXT", help="The question about the video.")
@frame_options
@ahead_option
@sampling_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of the answer.")
def run_command(
    *,
    bundle: Path,
    video: Path,
    prompt: str,
    fps: float | None,
    num_frames: int | None,
    max_tokens: int,
    threads: int | None,
    n_ahead: int | None,
    device: str,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Answer a question about VIDEO, a video or image file, with the model in BUNDLE.

    The answer goes to stdout as it is made; everything else goes to stderr.
    """
    from aurora_export.cli.progress import Progress
    from aurora_export.runtime.session import Aurora
    from aurora_export.runtime.video import open_video
    from aurora_export.sampling import SamplingOptions

    check_frame_options(fps, num_frames)
    check_max_tokens(max_tokens)
    options = SamplingOptions(**sampling)
    with open_video(video, fps=fps, num_frames=num_frames) as frames, Progress() as progress:
        progress.phase("open the bundle")
        aurora = Aurora.open(bundle, device=device, threads=threads, n_ahead=n_ahead)
        progress.phase("watch the video")
        report = aurora.watch(
            frames,
            prompt=prompt,
            on_frame=lambda frame: progress.detail(f"{frame.index + 1} frames"),
            together=True,
        )
    with aurora:
        answer = ""
        for piece in without_leading_space(aurora.ask(prompt, options=options, max_tokens=max_tokens)):
            answer += piece
            if not as_json:
                click.echo(piece, nl=False)
        if as_json:
            click.echo(json.dumps(_summary(aurora, report, prompt, answer), ensure_ascii=False, indent=2))
        else:
            click.echo()
        _log.info(_timing_line(aurora))


def _summary(aurora: Aurora, report: WatchReport, prompt: str, answer: str) -> dict[str, Any]:
    """The object of --json."""
    stats = aurora.stats
    return {
        "prompt": prompt,
        "answer": answer,
        "answer_end": stats.answer_end,
        "n_frames": stats.n_frames,
        "n_visual_tokens": stats.n_visual_tokens,
        "n_text_tokens": stats.n_text_tokens,
        "n_answer_tokens": stats.n_answer_tokens,
        "seconds": {stage: round(seconds, 4) for stage, seconds in stats.seconds.items()},
        "warnings": list(report.warnings),
    }


def _timing_line(aurora: Aurora) -> str:
    stats = aurora.stats
    counts = f"{stats.n_frames} frames, {stats.n_visual_tokens} visual tokens, {stats.n_answer_tokens} answer tokens"
    return f"{counts}; " + ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in stats.seconds.items())
