"""Memory, time per frame and time per question, by how much was watched: none may depend on it.

    python benchmarks/bench_frames.py build/testbed.aurora

Each number of frames is a process of its own, one thread. Halfway the state is saved; another session loads it and
watches the other half: restored must equal uninterrupted, bit for bit. The frames are 64 held-out ones, over and over,
made before the clock starts. Writes benchmarks/results/memory_by_frames.json.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import click
from environment import ROOT, write_result

sys.path.insert(0, str(ROOT / "testbed"))

QUESTION = "How many objects are there?"
N_ASKED = 20
N_WARM_UP = 5
"""Frames before the clock starts, and the fewest that a median is taken of."""
N_ANSWER_TOKENS = 4
"""Of each answer, whatever it says: answers of one length can be compared."""


def measure(bundle: Path, n_frames: int) -> dict[str, object]:
    """Watch, save halfway, ask, restore. Returns times and sizes."""
    from aurora_export.runtime.session import Aurora
    from aurora_export.runtime.video import Frame
    from render import draw_frames
    from scenes import sample_scene

    scene = sample_scene(0, duration_s=64)
    pictures = list(draw_frames(scene, scene.times_s))
    stamps: list[float] = []

    def frames(start: int, stop: int) -> Iterator[Frame]:
        for index in range(start, stop):
            stamps.append(time.perf_counter())
            yield Frame(pictures[index % len(pictures)], float(index))

    with tempfile.TemporaryDirectory() as folder, Aurora.open(bundle, threads=1) as aurora:
        path = Path(folder, "half.aurstate")
        aurora.fork().watch(pictures[:N_WARM_UP])
        half = n_frames // 2
        aurora.watch(frames(0, half))
        n_state_bytes = aurora.save(path)
        n_first = len(stamps)
        aurora.watch(frames(half, n_frames))
        stamps.append(time.perf_counter())
        steps = [after - before for before, after in pairwise(stamps)]
        del steps[n_first - 1]  # it holds the saving
        latencies = [ask(aurora) for _ in range(N_ASKED)]
        restored = aurora.fork()
        restored.load(path)
        restored.watch(Frame(pictures[i % len(pictures)], float(i)) for i in range(half, n_frames))
        tenth = max(N_WARM_UP, len(steps) // 10)
        return {
            "n_frames": n_frames,
            "state_bytes": n_state_bytes,
            "frame_ms_first_tenth": round(1000 * statistics.median(steps[:tenth]), 3),
            "frame_ms_last_tenth": round(1000 * statistics.median(steps[-tenth:]), 3),
            "question_ms": round(1000 * statistics.median(latencies), 3),
            "restored_is_uninterrupted": restored.state.digest == aurora.state.digest,
        }


def ask(aurora: object) -> float:
    """Seconds from a question to the end of an answer of N_ANSWER_TOKENS, on a fork."""
    fork = aurora.fork()  # type: ignore[attr-defined]
    started = time.perf_counter()
    for _ in islice(fork.generate_ids(QUESTION, max_tokens=N_ANSWER_TOKENS), N_ANSWER_TOKENS):
        pass
    return time.perf_counter() - started


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--frames", default="10,100,1000,10000", show_default=True, help="numbers of frames, fewest first")
@click.option("--one", type=int, hidden=True, help="measure one number in this process, and print it")
def main(bundle: Path, frames: str, one: int | None) -> None:
    """Measure BUNDLE over growing numbers of frames."""
    if one is not None:
        click.echo(json.dumps(measure(bundle, one)))
        return
    rows = []
    for n_frames in (int(entry) for entry in frames.split(",")):
        command = [sys.executable, __file__, str(bundle), "--one", str(n_frames)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = json.loads(process.stdout.read())
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        rows.append({**found, "peak_rss_mib": round(usage.ru_maxrss / 1024, 1)})
        click.echo(rows[-1], err=True)
    path = write_result(
        "memory_by_frames", f"python benchmarks/bench_frames.py BUNDLE --frames {frames}", {"runs": rows}
    )
    click.echo(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
