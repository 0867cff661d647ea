"""aurora-export batch: the same questions about many videos."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.answers import all_questions, lines_of_file
from aurora_export.cli.options import (
    PATH,
    check_frame_options,
    check_max_tokens,
    engine_options,
    frame_options,
    sampling_options,
)
from aurora_export.cli.program import Subcommand
from aurora_export.errors import EXIT_INTEGRITY, EXIT_OK, UsageError

if TYPE_CHECKING:
    from aurora_export.cli.progress import Progress
    from aurora_export.runtime.answer_file import AnswerFile
    from aurora_export.runtime.batch import BatchJob, Results

ENGINES = ("pool", "ray")


@click.command("batch", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.argument("video_list", type=PATH, metavar="LIST")
@click.option("--question", "questions", multiple=True, metavar="TEXT", help="Asked about every video; repeatable.")
@click.option("--questions", "question_file", type=PATH, metavar="FILE", help="More questions, one a line.")
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE", help="Answers, one JSON object a line.")
@frame_options
@click.option("--prime", is_flag=True, help="Read each question before the frames too; they are watched for each.")
@click.option("--workers", type=int, default=1, show_default=True, help="Videos at a time; each holds the model.")
@click.option("--engine", type=click.Choice(ENGINES), default="pool", show_default=True, help="Processes here, or Ray.")
@click.option("--ray-address", metavar="ADDRESS", help="Of a running cluster.  [default: one on this machine]")
@sampling_options
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def batch_command(
    *,
    bundle: Path,
    video_list: Path,
    questions: tuple[str, ...],
    question_file: Path | None,
    out: Path,
    fps: float | None,
    num_frames: int | None,
    prime: bool,
    workers: int,
    engine: str,
    ray_address: str | None,
    max_tokens: int,
    threads: int | None,
    device: str,
    as_json: bool,
    **sampling: Any,
) -> int:
    """Ask the same questions about every video in LIST, a text file with one path a line; - is stdin.

    Paths are relative to LIST. Answers are appended to FILE as they come. Run again, videos whose content is answered
    there are left out, so a batch that was stopped goes on; failed ones are tried again. A video that fails is a line
    with `error`, and exit code 4 or its own in the end.
    """
    from aurora_export.cli.progress import Progress
    from aurora_export.manifest import read_manifest, verify_files
    from aurora_export.runtime.answer_file import opened
    from aurora_export.runtime.batch import BatchJob
    from aurora_export.runtime.video import check_sampling
    from aurora_export.sampling import SamplingOptions

    check_frame_options(fps, num_frames)
    check_sampling(fps, num_frames)
    check_max_tokens(max_tokens)
    if workers < 1:
        raise UsageError(f"--workers is {workers}; at least 1 is needed")
    if ray_address is not None and engine != "ray":
        raise UsageError("--ray-address is for --engine ray", hint="leave it out, or add --engine ray")
    asked = tuple(dict.fromkeys(all_questions(questions, question_file)))
    videos = _videos(video_list)
    job = BatchJob(
        bundle=str(bundle.absolute()),
        questions=asked,
        fps=fps,
        num_frames=num_frames,
        is_primed=prime,
        sampling=SamplingOptions(**sampling),
        max_tokens=max_tokens,
        threads=threads,
        device=device,
    )
    with Progress() as progress:
        progress.phase("verify the bundle")
        manifest = read_manifest(bundle)
        if prime and manifest.config.prompt.sandwich != "duplicate":
            raise UsageError("--prime: this model reads no question before the frames", hint="leave it out")
        verify_files(bundle, manifest, lambda path, _: progress.detail(path))
        progress.phase("answer")
        with opened(out, job.settings()) as answers:
            results = _results(job, answers, list(videos), engine=engine, n_workers=workers, address=ray_address)
            summary = _write(results, answers, asked, videos, progress)
    click.echo(json.dumps({"answers": str(out), **summary}, indent=2) if as_json else _summary_line(out, summary))
    codes = set(summary["exit_codes"])
    return EXIT_OK if not codes else codes.pop() if len(codes) == 1 else EXIT_INTEGRITY


def _videos(video_list: Path) -> dict[str, str]:
    """Full paths of the videos in a list, each once, and their names there. Raises UsageError for an empty one."""
    lines = [line for line in lines_of_file(video_list) if not line.startswith("#")]
    if not lines:
        raise UsageError(f"{video_list}: names no video", hint="write one path a line")
    base = Path() if str(video_list) == "-" else video_list.parent
    return {str((base / line).absolute()): line for line in lines}


def _results(
    job: BatchJob, answers: AnswerFile, videos: list[str], *, engine: str, n_workers: int, address: str | None
) -> Results:
    if engine == "ray":
        from aurora_export.runtime.batch_ray import run_ray

        return run_ray(job, answers.known, videos, n_workers=n_workers, address=address)
    from aurora_export.runtime.batch import run_pool

    return run_pool(job, answers.known, videos, n_workers=min(n_workers, len(videos)))


def _write(
    results: Results, answers: AnswerFile, questions: tuple[str, ...], names: dict[str, str], progress: Progress
) -> dict[str, Any]:
    """Write results as they come, and count them."""
    counts: dict[str, Any] = {"n_videos": len(names), "n_answered": 0, "n_known": 0, "n_failed": 0, "exit_codes": []}
    with closing(results):
        for number, result in enumerate(results, start=1):
            result.video = names[result.video]
            result.rows = [{**row, "video": result.video} for row in result.rows]
            n_known = answers.add(result, questions)
            if result.error is not None:
                counts["n_failed"] += 1
                counts["exit_codes"].append(result.error["exit_code"])
            else:
                counts["n_known" if n_known == len(questions) else "n_answered"] += 1
            failures = f", {counts['n_failed']} failed" if counts["n_failed"] else ""
            progress.detail(f"{number} of {len(names)} videos{failures}")
    return counts


def _summary_line(out: Path, summary: dict[str, Any]) -> str:
    parts = [f"{summary['n_answered']} answered", f"{summary['n_known']} known before", f"{summary['n_failed']} failed"]
    line = f"{out}: {summary['n_videos']} videos, {', '.join(parts)}"
    return line + ("; their lines have `error`" if summary["n_failed"] else "")
