"""What the testbed still remembers after so many frames of something else: a recurrent state forgets.

    python benchmarks/bench_remember.py build/testbed.aurora

A held-out scene of 8 frames is watched under the general instruction, then other frames, and on the way forks are asked
about the first scene. Two kinds of other frames:

    nothing    the background and grain of further scenes, no objects: every question keeps its answer
    objects    further scenes whose objects have none of the first scene's colours: what is asked by colour keeps its
               answer (shape and direction)

A right answer is the whole right string; four shapes and four directions can be guessed once in four times. The model
was trained on videos of 8 to 64 frames, so beyond that it is asked for what it never learnt.
Writes benchmarks/results/remembering.json.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import click
import numpy as np
from environment import ROOT, write_result

sys.path.insert(0, str(ROOT / "testbed"))

WAYPOINTS = (0, 10, 30, 100, 300, 1000)
FIRST_SEED = 400_000
"""Held out, and used by no other measurement."""
OTHER_SEED = 500_000
OTHER_S = 16
KINDS = {"nothing": ("colour", "shape", "count", "order", "direction"), "objects": ("shape", "direction")}
MAX_ANSWER_TOKENS = 8


def other_frames(kind: str, seed: int, colours_taken: set[str]) -> Iterator[np.ndarray]:
    """Frames of something else, without end, uint8 (H, W, 3)."""
    from render import draw_frames
    from scenes import COLOURS, sample_scene

    free = [colour for colour in COLOURS if colour not in colours_taken]
    number = OTHER_SEED + 1000 * (seed - FIRST_SEED)
    while True:
        scene = sample_scene(number, duration_s=OTHER_S)
        objects = tuple(replace(item, colour=free[i % len(free)]) for i, item in enumerate(scene.objects))
        yield from draw_frames(replace(scene, objects=() if kind == "nothing" else objects), scene.times_s)
        number += 1


def follow(task: tuple[str, str, int]) -> list[tuple[int, str, bool]]:
    """One scene: frames of something else so far, kind of question, whether the answer was right."""
    from aurora_export.runtime.session import Aurora
    from render import draw_frames
    from scenes import questions, sample_scene

    bundle, kind, seed = task
    scene = sample_scene(seed)
    others = other_frames(kind, seed, {item.colour for item in scene.objects})
    found = []
    with Aurora.open(bundle, threads=1, verify=False) as aurora:
        aurora.watch(list(draw_frames(scene, scene.times_s)))
        for before, waypoint in zip((0, *WAYPOINTS), WAYPOINTS, strict=False):
            if waypoint > before:
                aurora.watch(next(others) for _ in range(waypoint - before))
            for question in questions(scene):
                if question.kind in KINDS[kind]:
                    answer = "".join(aurora.fork().ask(question.text, max_tokens=MAX_ANSWER_TOKENS)).strip()
                    found.append((waypoint, question.kind, answer == question.answer))
    return found


@click.command()
@click.argument("bundle", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--scenes", default=60, show_default=True, help="of each kind")
@click.option("--processes", default=2, show_default=True)
def main(bundle: Path, scenes: int, processes: int) -> None:
    """Measure what BUNDLE remembers."""
    result: dict[str, object] = {"scenes": scenes, "scene_frames": 8, "guessing": 0.25}
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for kind in KINDS:
            tasks = [(str(bundle), kind, FIRST_SEED + i) for i in range(scenes)]
            by_scene = list(pool.map(follow, tasks))
            result[kind] = [curve_point(by_scene, waypoint) for waypoint in WAYPOINTS]
            click.echo(f"{kind}: {[row['all'] for row in result[kind]]}", err=True)  # type: ignore[union-attr]
    path = write_result("remembering", f"python benchmarks/bench_remember.py BUNDLE --scenes {scenes}", result)
    click.echo(path.relative_to(ROOT))


def curve_point(by_scene: list[list[tuple[int, str, bool]]], waypoint: int) -> dict[str, float]:
    """Accuracy in all and by kind of question; the standard error is over scenes, whose questions go together."""
    hits: dict[str, list[bool]] = defaultdict(list)
    of_scene = []
    for outcomes in by_scene:
        here = [(kind, right) for at, kind, right in outcomes if at == waypoint]
        of_scene.append([right for _, right in here])
        for kind, right in here:
            hits[kind].append(right)
    n = sum(map(len, of_scene))
    mean = sum(map(sum, of_scene)) / n
    error = math.sqrt(sum((sum(rights) - mean * len(rights)) ** 2 for rights in of_scene)) / n
    shares = {kind: round(sum(rights) / len(rights), 4) for kind, rights in sorted(hits.items())}
    return {"frames_since": waypoint, "n": n, "all": round(mean, 4), "standard_error": round(error, 4), **shares}


if __name__ == "__main__":
    main()
