"""Does memory grow with the video? Peak resident memory of `aurora-export run` for clips of growing length.

    python benchmarks/bench_memory.py build/testbed.aurora

Each run is a process of its own; its peak is what the kernel counted (ru_maxrss), the whole process included.
Writes benchmarks/results/memory_by_length.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import click
import numpy as np
from environment import ROOT, write_result

FRAMES_PER_SECOND = 8
SIDE = 256
PROMPT = "How many objects are there?"


def encode_clip(path: Path, seconds: int) -> None:
    """A bright square that circles over a dark ground, H.264: as long as asked, frame by frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for index in range(seconds * FRAMES_PER_SECOND):
            frame = np.full((SIDE, SIDE, 3), 40, dtype=np.uint8)
            x, y = (int(SIDE / 2 + 80 * f(index / 20)) for f in (np.cos, np.sin))
            frame[y - 20 : y + 20, x - 20 : x + 20] = (220, 60, 60)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def run_clip(bundle: Path, clip: Path) -> dict[str, object]:
    """Answer about a clip in a process of its own. Returns its peak memory, counts and stage times."""
    command = [sys.executable, "-m", "aurora_export", "run", str(bundle), str(clip), "--prompt", PROMPT, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"peak_rss_mib": round(usage.ru_maxrss / 1024, 1), **answer}


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seconds", default="10,60,600", show_default=True, help="lengths of the clips, shortest first")
def main(bundle: Path, seconds: str) -> None:
    """Measure peak memory of BUNDLE over clips of several lengths."""
    lengths = [int(entry) for entry in seconds.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for length in lengths:
            clip = Path(folder, f"{length}.mp4")
            encode_clip(clip, length)
            rows.append({"video_seconds": length, **run_clip(bundle, clip)})
            click.echo(f"{length:>6} s of video: {rows[-1]['peak_rss_mib']} MiB", err=True)
    first, last = (float(str(row["peak_rss_mib"])) for row in (rows[0], rows[-1]))
    path = write_result(
        "memory_by_length",
        f"python benchmarks/bench_memory.py BUNDLE --seconds {seconds}",
        {"growth_mib": round(last - first, 1), "runs": rows},
    )
    click.echo(f"{path.relative_to(ROOT)}: {lengths[-1] / lengths[0]:g} times the video, {last - first:+.1f} MiB")


if __name__ == "__main__":
    main()
