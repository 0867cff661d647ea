r"""Watching a video at full size, stage after stage against stages side by side, in turns; the states must be the same.

    python benchmarks/record.py pipeline -- python benchmarks/bench_pipeline.py build/full_size/int8.aurora

Ways:
  sequential         decode, resize, vision, prefill, one after the other: `--ahead 0`
  ahead              a thread decodes and resizes ahead: `--ahead 2`, each frame in a run of its own
  together           as well, and frames go into the language graph together while they fit: the default
  beside, N each     vision of the next frame beside the prefill of this one, N threads each; not in the product
The last ones are built here, from the engines, on the same frames. A ratio is of two times within a round. About three
minutes for 10 frames and 5 rounds. Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

from aurora_export.runtime.cores import n_usable_cores
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.synthetic_clip import write_clip
from aurora_export.runtime.video import open_video

State = dict[str, np.ndarray]


def session_way(opened: OpenedBundle, clip: Path, *, together: bool) -> Callable[[], State]:
    """As the product does it."""

    def run() -> State:
        aurora = Aurora(opened)
        aurora.watch(clip, fps=1, together=together)
        return aurora.state.arrays

    return run


def beside_way(opened: OpenedBundle, clip: Path, ids_before: tuple[int, ...]) -> Callable[[], State]:
    """Frames are read ahead as in the product; vision of the next beside the prefill of this one."""

    def see(pixels: np.ndarray) -> np.ndarray:
        return opened.vision.run({"frames": pixels[None]})["visual_tokens"][0]

    def run() -> State:
        loop = opened.language.open_loop()
        with open_video(clip, fps=1) as frames, ThreadPoolExecutor(1) as pool:
            frames.read_ahead(2, opened.resize)
            before: Future[np.ndarray] | None = None
            text = opened.embed_ids(ids_before)
            for frame in frames:
                seen = pool.submit(see, frame.pixels)
                if before is not None:
                    loop.advance(np.concatenate([text, before.result()]))
                    text = text[:0]
                before = seen
            assert before is not None
            loop.advance(np.concatenate([text, before.result()]))
        return loop.read_state()

    return run


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--frames", default=10, show_default=True, help="of the clip")
@click.option("--fps", default=25, show_default=True, help="at which it is encoded: all are decoded, one a second used")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=n_usable_cores(), show_default=True)
def main(bundle: Path, frames: int, fps: int, rounds: int, threads: int) -> None:
    """Watch a clip with BUNDLE in every way."""
    opened = {n_ahead: open_bundle(bundle, threads=threads, n_ahead=n_ahead, verify=False) for n_ahead in (0, 2)}
    single = open_bundle(bundle, threads=max(1, threads // 2), verify=False)
    with tempfile.TemporaryDirectory() as folder:
        clip = write_clip(Path(folder, "clip.mp4"), frames, fps=fps)
        before = Aurora(opened[0])._ids_before_frames(None)
        ways = {
            "sequential": session_way(opened[0], clip, together=False),
            "ahead": session_way(opened[2], clip, together=False),
            "together": session_way(opened[2], clip, together=True),
            f"beside, {threads} each": beside_way(opened[2], clip, before),
            f"beside, {max(1, threads // 2)} each": beside_way(single, clip, before),
        }
        states = {name: run() for name, run in ways.items()}  # warm up
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                began = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - began) / frames)
                print(f"{name}: {times[name][-1]:.3f} s a frame", file=sys.stderr, flush=True)
    rows = []
    for name, seconds in times.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, times["sequential"], strict=True)]
        rows.append(
            {
                "way": name,
                "frame_s": round(statistics.median(seconds), 4),
                "lowest_s": round(min(seconds), 4),
                "highest_s": round(max(seconds), 4),
                "time_over_sequential": round(statistics.median(ratios), 3),
                "range": [round(min(ratios), 3), round(max(ratios), 3)],
                "same_state": all(np.array_equal(states[name][key], states["sequential"][key]) for key in states[name]),
            }
        )
    result = {"precision": opened[0].manifest.precision, "frames": frames, "encoded_fps": fps, "threads": threads}
    print(json.dumps({**result, "rounds": rounds, "ways": rows}, indent=2))


if __name__ == "__main__":
    main()
