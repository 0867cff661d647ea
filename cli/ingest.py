"""aurora-export ingest: watch videos once, and keep what was seen as a state file."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.options import (
    PATH,
    Size,
    Time,
    ahead_option,
    check_frame_options,
    engine_options,
    frame_options,
    size_text,
    time_text,
)
from aurora_export.cli.program import Subcommand
from aurora_export.errors import UsageError

if TYPE_CHECKING:
    from aurora_export.cli.progress import Progress
    from aurora_export.runtime.ingest import IngestReport, Recorder
    from aurora_export.runtime.session import Aurora
    from aurora_export.runtime.timeline import Timeline
    from aurora_export.runtime.video import OpenSource

DEFAULT_KEEP_BYTES = 10**9
LIVE_EVERY_S = 60.0
LATE = ("wait", "drop")
LATE_HELP = "If frames come faster than they are watched.  [default: drop for cameras and endless streams, else wait]"

_log = logging.getLogger(__name__)


@click.command("ingest", cls=Subcommand)
@click.argument("bundle", type=PATH)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--out", type=PATH, required=True, metavar="FILE", help="The state to write, NAME.aurstate.")
@frame_options
@click.option("--start", type=Time(), metavar="TIME", help="Begin so far into the video, which is then the only one.")
@click.option("--duration", type=Time(), metavar="TIME", help="Watch so much of each source, at most.")
@click.option("--prime", metavar="TEXT", help="A question to keep in mind while watching; others can be asked too.")
@click.option("--append", is_flag=True, help="Continue FILE with new footage; begin it if it is not there.")
@click.option("--replace", is_flag=True, help="Write over FILE and its timeline.")
@click.option("--every", type=Time(), metavar="TIME", help="Save, and add a checkpoint, each such time of video.")
@click.option("--keep", type=Size(), metavar="SIZE", help="Of all checkpoints; old ones are thinned.  [default: 1GB]")
@click.option("--follow", is_flag=True, help="The file is still being written: read on as it grows.")
@click.option("--raw-size", metavar="WxH", help="Width and height of the raw RGB frames on stdin (-).")
@click.option("--raw-fps", type=float, help="Their rate.")
@click.option("--late", type=click.Choice(LATE), help=LATE_HELP)
@click.option("--stall", type=Time(), metavar="TIME", help="A source is lost if nothing comes so long.  [default: 10s]")
@click.option("--reconnect", type=Time(), metavar="TIME", help="Try so long to get it back.  [default: 5m]")
@ahead_option
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ingest_command(
    *,
    bundle: Path,
    sources: tuple[str, ...],
    out: Path,
    fps: float | None,
    num_frames: int | None,
    start: float | None,
    duration: float | None,
    prime: str | None,
    append: bool,
    replace: bool,
    every: float | None,
    keep: int | None,
    threads: int | None,
    n_ahead: int | None,
    device: str,
    as_json: bool,
    **live: Any,
) -> None:
    """Watch sources with the model in BUNDLE, and write what it has seen to FILE.

    FILE has about 13 MB for a 2B model, however long was watched. Any number of questions can be asked about it later,
    with `ask` and `chat`. Several sources are watched as one, in the order given. What was watched is saved whatever
    ends it, Ctrl-C too.

    A SOURCE is a video file, - for raw RGB frames on stdin, an rtsp, rtsps, http or https address, or a camera such
    as /dev/video0 (Linux). Live ones are saved every minute.
    """
    check_frame_options(fps, num_frames)
    _check_options(sources, num_frames, start, append=append, replace=replace)

    from aurora_export.cli.progress import Progress
    from aurora_export.runtime.ingest import Recorder, exclusive
    from aurora_export.runtime.session import Aurora

    openers, is_live = _openers(sources, fps=fps, num_frames=num_frames, start_s=start or 0.0, **live)
    every = LIVE_EVERY_S if every is None and is_live else every
    timeline = _timeline(out, every, keep)
    with exclusive(out), Progress() as progress:
        _check_destination(out, timeline, append=append, replace=replace)
        progress.phase("open the bundle")
        with Aurora.open(bundle, device=device, threads=threads, n_ahead=n_ahead) as aurora:
            _begin(aurora, out, timeline, append=append, prime=prime)
            recorder = Recorder(aurora, out, every_s=every, timeline=timeline, is_new=replace)
            progress.phase("watch")
            report = _watch(
                recorder, openers, progress, step_s=1 / fps if fps else 1.0, duration_s=duration, prompt=prime
            )
            summary = _summary(out, aurora, recorder, report, as_json=as_json)
    click.echo(summary)


def _timeline(out: Path, every: float | None, keep: int | None) -> Timeline:
    from aurora_export.runtime.timeline import Timeline

    if every is not None and every <= 0:
        raise UsageError("--every must be over 0", hint="as in --every 60s")
    if keep is not None and every is None:
        raise UsageError("--keep is about the checkpoints of --every", hint="give --every TIME too")
    return Timeline.beside(out, budget_bytes=DEFAULT_KEEP_BYTES if keep is None else keep)


def _watch(recorder: Recorder, openers: list[Callable[[], OpenSource]], progress: Progress, **how: Any) -> IngestReport:
    """Watch all sources; whatever ends it early, say what is kept."""
    from aurora_export.runtime.ingest import ingest

    aurora = recorder.aurora
    try:
        return ingest(
            aurora,
            openers,
            recorder,
            on_frame=lambda frame: progress.detail(f"{aurora.header.frames_seen} frames, {time_text(frame.time_s)}"),
            **how,
        )
    except BaseException:
        if (saved := recorder.saved) is not None:
            kept = f"{saved.frames_seen} frames, up to {time_text(saved.position_s)}"
            _log.warning("%s holds what was watched: %s; --append continues it", recorder.path, kept)
        raise


def _check_options(
    sources: tuple[str, ...], num_frames: int | None, start: float | None, *, append: bool, replace: bool
) -> None:
    if append and replace:
        raise UsageError("--append and --replace exclude each other", hint="continue the state, or write over it")
    if start is not None and len(sources) > 1:
        raise UsageError("--start is for one video", hint="watch the others with a further `ingest --append`")
    if start is not None and num_frames is not None:
        raise UsageError("--start and --num-frames exclude each other", hint="give --fps")
    if len({source for source in sources if source == "-"}) < sources.count("-"):
        raise UsageError("stdin can be read once", hint="give - once")


def _openers(
    sources: tuple[str, ...],
    *,
    raw_size: str | None,
    stall: float | None,
    reconnect: float | None,
    **options: Any,
) -> tuple[list[Callable[[], OpenSource]], bool]:
    """What opens each source when its turn comes, and whether one is live; what cannot be is refused now."""
    from aurora_export.runtime.footage import FootageOptions, check_options, kind_of, open_footage

    footage = FootageOptions(raw_size=_size_of(raw_size), stall_s=stall, reconnect_s=reconnect, **options)
    kinds = {source: kind_of(source, follow=footage.follow) for source in sources}
    for source, kind in kinds.items():
        check_options(source, kind, footage)
    return [partial(open_footage, source, footage) for source in sources], set(kinds.values()) != {"file"}


def _size_of(text: str | None) -> tuple[int, int] | None:
    """Width and height of `640x480`."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.strip().lower())
    if match is None:
        raise UsageError(f"--raw-size {text}: expected WIDTHxHEIGHT", hint="as in --raw-size 640x480")
    return int(match[1]), int(match[2])


def _check_destination(out: Path, timeline: Timeline, *, append: bool, replace: bool) -> None:
    """Refuse to lose a state, or checkpoints whose state is gone."""
    if out.is_dir():
        raise UsageError(f"{out}: is a folder", hint="give a file, as in --out cam.aurstate")
    if out.exists() and not (append or replace):
        raise UsageError(f"{out}: exists", hint="--append continues it, --replace writes over it")
    if not out.exists() and not replace and timeline.checkpoints():
        newest = timeline.checkpoints()[-1]
        raise UsageError(
            f"{timeline.folder}: holds checkpoints, but their state {out} is not there",
            hint=f"copy the newest, {newest.path.name}, to {out} and --append; or --replace all of it",
        )


def _begin(aurora: Aurora, out: Path, timeline: Timeline, *, append: bool, prime: str | None) -> None:
    """Load what is to be continued, and refuse what cannot be."""
    if prime is not None and aurora.manifest.config.prompt.sandwich != "duplicate":
        raise UsageError(
            f"--prime: this model reads no question before the frames (prompt.sandwich is "
            f"{aurora.manifest.config.prompt.sandwich})",
            hint="leave it out",
        )
    if not append:
        return
    if not out.exists():
        _log.info("%s: not there yet, begun anew", out)
        return
    aurora.load(out)
    newest = timeline.checkpoints()[-1:]
    if newest and newest[0].header.tokens_seen > aurora.header.tokens_seen:
        raise UsageError(
            f"{timeline.folder}: goes on to {time_text(newest[0].time_s)}; {out} ends at "
            f"{time_text(aurora.header.position_s)}",
            hint=f"copy {newest[0].path.name} over {out} to continue from there, or delete the later checkpoints",
        )
    if prime is not None and aurora.phase == "watching":
        raise UsageError(
            "--prime must come before the first frame, and this state has watched some",
            hint="leave it out, or --replace the state",
        )


def _summary(out: Path, aurora: Aurora, recorder: Recorder, report: IngestReport, *, as_json: bool) -> str:
    header = aurora.header
    size = out.stat().st_size
    if as_json:
        found: dict[str, Any] = {
            "state": str(out),
            "n_bytes": size,
            "n_frames": report.n_frames,
            "n_visual_tokens": report.n_visual_tokens,
            "n_checkpoints": recorder.n_checkpoints,
            "frames_seen": header.frames_seen,
            "position_s": header.position_s,
            "video_digest": header.video_digest,
            "seconds": {stage: round(seconds, 4) for stage, seconds in report.seconds.items()},
            "warnings": report.warnings,
            **report.counts,
        }
        return json.dumps(found, ensure_ascii=False, indent=2)
    appended = f", {header.frames_seen} in all" if header.frames_seen > report.n_frames else ""
    n_checkpoints = recorder.n_checkpoints
    checkpoints = f", {n_checkpoints} checkpoint{'s' * (n_checkpoints > 1)}" if n_checkpoints else ""
    return (
        f"{out}: {size_text(size)}, {report.n_frames} frames{appended}, up to {time_text(header.position_s)}"
        f"{checkpoints}"
    )
