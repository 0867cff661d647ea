r"""Watching a long video at full size: time, memory and the first token of an answer by the number of frames.

    python benchmarks/bench_watching.py build/full_size/int8.aurora --frames 1,8,10,30,60,100,300,1000

One process opens the bundle and watches one H.264 clip, piece after piece; after each it stops its clock and asks a
fork. The time of a frame is a mean over the piece that ends there. About seven minutes for 1,000 frames on two cores.
Writes benchmarks/results/watching.json.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from environment import ROOT, write_result

if TYPE_CHECKING:
    import numpy as np

    from aurora_export.runtime.video import Frame

SOURCE_FRAMES_PER_SECOND = 2
QUESTION = "What happens in this video?"
N_ASKED = 3


def watch(bundle: Path, clip: Path, points: list[int], n_threads: int | None) -> dict[str, Any]:
    """Watch a clip of points[-1] frames; a row for each of the points."""
    from aurora_export.runtime.session import Aurora
    from aurora_export.runtime.video import OpenSource, open_video

    class Piece(OpenSource):
        """The next frames of a video that is being watched, made ahead as those of a file are."""

        def __init__(self, n_frames: int) -> None:
            super().__init__()
            self._n_frames = n_frames

        def read_ahead(self, n: int, prepare: Callable[[np.ndarray], np.ndarray]) -> bool:
            return is_ahead

        def __iter__(self) -> Iterator[Frame]:
            return islice(frames, self._n_frames)

    with Aurora.open(bundle, threads=n_threads, verify=False) as aurora, open_video(clip, fps=1) as video:
        warm = aurora.fork()
        warm.watch(clip, num_frames=1)
        first_token_s(warm)
        model = aurora._model
        is_ahead = model.n_ahead > 0 and video.read_ahead(model.n_ahead, model.resize)
        frames = iter(video)
        rows: list[dict[str, Any]] = []
        stages: dict[str, float] = {}
        watch_s, n_watched = 0.0, 0
        for n_frames in points:
            began = time.perf_counter()
            report = aurora.watch(Piece(n_frames - n_watched))
            piece_s = time.perf_counter() - began
            if report.n_frames != n_frames - n_watched:
                raise SystemExit(f"{n_watched + report.n_frames} frames were watched, not {n_frames}")
            watch_s += piece_s
            stages = {name: stages.get(name, 0.0) + seconds for name, seconds in report.seconds.items()}
            first_token_ms = 1000 * statistics.median(first_token_s(aurora) for _ in range(N_ASKED))
            rows.append(
                {
                    "n_frames": n_frames,
                    "watch_s": round(watch_s, 3),
                    "frame_ms": round(1000 * piece_s / (n_frames - n_watched), 1),
                    "first_token_ms": round(first_token_ms, 1),
                    **memory(),
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
            n_watched = n_frames
        config = aurora.manifest.config
        return {
            "model": f"RWKV-{config.language.version}, {config.language.n_layers} layers of {config.language.width}",
            "precision": aurora.manifest.precision,
            "tokens_per_frame": config.tokens_per_frame,
            "seconds": {stage: round(seconds, 3) for stage, seconds in stages.items()},
            "runs": rows,
        }


def first_token_s(aurora: Any) -> float:
    """Seconds from the question to the first token of its answer, on a fork."""
    with aurora.fork() as fork:
        began = time.perf_counter()
        next(fork.generate_ids(QUESTION, max_tokens=1), None)
        return time.perf_counter() - began


def memory() -> dict[str, float]:
    """Of this process: resident now, the part of it that no file stands behind, and the most so far; in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"rss_mib": kib["VmRSS"], "anonymous_mib": kib["RssAnon"], "peak_rss_mib": peak}
    return {name: round(value / 1024, 1) for name, value in figures.items()}


def measure(bundle: Path, points: list[int], threads: int | None) -> dict[str, Any]:
    """As `watch`, in a process of its own, on a clip that is made here."""
    from aurora_export.runtime.synthetic_clip import write_clip

    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder, "clip.mp4"), points[-1], fps=SOURCE_FRAMES_PER_SECOND)
        command = [sys.executable, __file__, str(bundle), "--frames", ",".join(map(str, points)), "--clip", str(clip)]
        command += ["--threads", str(threads)] if threads else []
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--frames", default="1,8,60", show_default=True, help="numbers of frames, fewest first")
@click.option("--threads", type=int, help="one for each core by default")
@click.option("--name", default="watching", show_default=True, help="of the result file")
@click.option("--clip", type=click.Path(exists=True, path_type=Path), hidden=True, help="measure here, and print it")
def main(bundle: Path, frames: str, threads: int | None, name: str, clip: Path | None) -> None:
    """Measure BUNDLE over growing numbers of frames."""
    points = sorted(int(entry) for entry in frames.split(","))
    if clip is not None:
        click.echo(json.dumps(watch(bundle, clip, points, threads)))
        return
    result = measure(bundle, points, threads)
    path = write_result(name, f"python benchmarks/bench_watching.py BUNDLE --frames {frames}", result)
    click.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
