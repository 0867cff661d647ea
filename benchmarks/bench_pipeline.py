r"""Watching a video at full size, stage after stage against stages side by side, in turns; the states must be the same.

    python benchmarks/record.py pipeline -- python benchmarks/bench_pipeline.py build/full_size/int8.aurora

Ways:
  sequential         decode, resize, vision, prefill, one after the other: `--ahead 0`
  ahead              a thread decodes and resizes ahead: `--ahead 2`, the default
  beside, N each     vision of the next frame beside the prefill of this one, N threads each; not in the product
  pairs              the tokens of two frames in one run of the language graph; not in the product
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np

from aurora_export.frames import resize_frame
from aurora_export.runtime.cores import n_usable_cores
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.synthetic_clip import write_clip
from aurora_export.runtime.video import open_video

State = dict[str, np.ndarray]


def session_way(opened: OpenedBundle, clip: Path) -> Callable[[], State]:
    """As the product does it."""

    def run() -> State:
        aurora = Aurora(opened)
        aurora.watch(clip, fps=1)
        return aurora.state.arrays

    return run


def engine_way(
    opened: OpenedBundle, clip: Path, *, beside: bool, n_at_once: int, ids_before: tuple[int, ...]
) -> Callable[[], State]:
    """Frames are read ahead as in the product; then vision and prefill, side by side or not."""
    config = opened.manifest.config

    def resize(pixels: np.ndarray) -> np.ndarray:
        return resize_frame(
            pixels, size=config.vision.image_size, mode=config.frames.resize, pad_value=config.frames.pad_value
        )

    def see(pixels: np.ndarray) -> np.ndarray:
        return opened.vision.run({"frames": pixels[None]})["visual_tokens"][0]

    def run() -> State:
        loop = opened.language.open_loop()
        with open_video(clip, fps=1) as frames, ThreadPoolExecutor(1) as pool:
            frames.read_ahead(2, resize)
            waiting: list[Any] = [opened.embed_ids(ids_before)]
            n_waiting = 0
            for frame in frames:
                seen = pool.submit(see, frame.pixels)
                if not beside:
                    seen.result()
                if n_waiting == n_at_once:
                    loop.advance(
                        np.concatenate([part if isinstance(part, np.ndarray) else part.result() for part in waiting])
                    )
                    waiting, n_waiting = [], 0
                waiting.append(seen)
                n_waiting += 1
            loop.advance(np.concatenate([part if isinstance(part, np.ndarray) else part.result() for part in waiting]))
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
        built = {"clip": clip, "ids_before": before}
        ways = {
            "sequential": session_way(opened[0], clip),
            "ahead": session_way(opened[2], clip),
            f"beside, {threads} each": engine_way(opened[2], beside=True, n_at_once=1, **built),
            f"beside, {max(1, threads // 2)} each": engine_way(single, beside=True, n_at_once=1, **built),
            "pairs": engine_way(opened[2], beside=False, n_at_once=2, **built),
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
