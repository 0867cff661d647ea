"""Accuracy of a bundle on held-out scenes, through the product's own runtime, greedy.

    python testbed/evaluate.py testbed.aurora --questions 1000 --json

Of each scene one question of every kind is asked. An answer is right if it is the right string, whole. `all` counts
the five kinds of question; captions, where every word of every sentence must be right, are reported beside them.
Prompt forms: `generic` watches with the general instruction and forks the state for every question; `duplicate`
(the sandwich) watches again for every question, with the question before the frames and after them.

The shipped weights make no mistake on scenes like those of the training, so these can show a large loss only. To see
a small one, for instance of a quantization, make the scenes harder than any in the training: `--noise 60`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render import draw_frames, write_clip
from scenes import HELD_OUT_SEEDS, KINDS, Question, Scene, questions, sample_scene

if TYPE_CHECKING:  # imported where it is used, so that --help is quick
    from aurora_export.runtime.session import Aurora

FORMS = ("generic", "duplicate")
DURATIONS = {"8": (8,), "16": (16,), "32": (32,), "64": (64,), "mixed": (8, 16, 8, 32, 8, 64)}
"""Seconds, and frames at one a second, of the scenes, in turn."""
FIRST_SEED = 100_000
SEEDS_PER_RUN = 20_000
_MAX_ANSWER_TOKENS = 32
_CLIP_FPS = 8


@dataclass(frozen=True)
class Outcome:
    """One question asked."""

    scene_seed: int
    n_frames: int
    form: str
    kind: str
    question: str
    expected: str
    answer: str

    @property
    def right(self) -> bool:
        """Whether the answer is the expected string."""
        return self.answer == self.expected


@dataclass(frozen=True)
class Plan:
    """What a worker does: which bundle, which scenes, how they are shown and asked about."""

    bundle: str
    forms: tuple[str, ...]
    encoded: bool
    noise: float | None


def choose_questions(scene: Scene) -> list[Question]:
    """One question of every kind that the scene has, drawn from its seed."""
    rng = np.random.default_rng((scene.seed, 6))
    asked = questions(scene)
    of_kind = [[q for q in asked if q.kind == kind] for kind in KINDS]
    return [same[int(rng.integers(len(same)))] for same in of_kind if same]


def scene_of(plan: Plan, seed: int, duration_s: int) -> Scene:
    """The scene of a seed, with the noise that the plan asks for."""
    scene = sample_scene(seed, duration_s=duration_s)
    return scene if plan.noise is None else replace(scene, noise=plan.noise)


def show(scene: Scene, *, encoded: bool) -> Iterable[np.ndarray]:
    """The frames of a scene at one a second, uint8 (H, W, 3): drawn, or out of a real H.264 file of 256 pixels."""
    if not encoded:
        return list(draw_frames(scene, scene.times_s))
    import av

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_clip(scene, path, fps=_CLIP_FPS)
        with av.open(str(path)) as container:
            frames = container.decode(video=0)
            return [f.to_ndarray(format="rgb24") for i, f in enumerate(frames) if i % _CLIP_FPS == 0]


def _ask_all(task: tuple[Plan, list[tuple[int, int]]]) -> list[Outcome]:
    """Work of one process: all questions about the (seed, duration) scenes given."""
    from aurora_export.runtime.session import Aurora

    plan, scenes = task
    outcomes = []
    aurora = Aurora.open(plan.bundle, threads=1)
    for seed, duration_s in scenes:
        scene = scene_of(plan, seed, duration_s)
        frames = list(show(scene, encoded=plan.encoded))
        for form in plan.forms:
            for question, answer in answers(aurora, frames, choose_questions(scene), form):
                outcomes.append(
                    Outcome(seed, duration_s, form, question.kind, question.text, question.answer, answer.strip())
                )
    return outcomes


def answers(
    aurora: Aurora, frames: list[np.ndarray], asked: list[Question], form: str
) -> Iterator[tuple[Question, str]]:
    """Ask every question about one video in one prompt form."""
    if form == "generic":
        aurora.reset()
        aurora.watch(frames)
    for question in asked:
        if form == "duplicate":
            aurora.reset()
            aurora.watch(frames, prompt=question.text)
            session = aurora
        else:
            session = aurora.fork()
        yield question, "".join(session.ask(question.text, max_tokens=_MAX_ANSWER_TOKENS))


def plan_scenes(n_questions: int, *, frames: str = "8", seed: int = 0, n_forms: int = 1) -> list[tuple[int, int]]:
    """Seeds and durations of as many held-out scenes as have so many questions, captions not counted."""
    first = FIRST_SEED + seed * SEEDS_PER_RUN
    durations = DURATIONS[frames]
    scenes: list[tuple[int, int]] = []
    n_planned = 0
    while n_planned < n_questions:
        number, duration_s = first + len(scenes), durations[len(scenes) % len(durations)]
        if number >= min(first + SEEDS_PER_RUN, HELD_OUT_SEEDS.stop):
            raise ValueError(f"{n_questions} questions need more scenes than the {SEEDS_PER_RUN} of one seed")
        scenes.append((number, duration_s))
        asked = choose_questions(sample_scene(number, duration_s=duration_s))
        n_planned += n_forms * sum(q.kind != "caption" for q in asked)
    return scenes


def run(
    bundle: Path,
    *,
    n_questions: int,
    forms: tuple[str, ...] = ("generic",),
    frames: str = "8",
    encoded: bool = False,
    noise: float | None = None,
    seed: int = 0,
    n_processes: int = 2,
) -> list[Outcome]:
    """Ask at least `n_questions`, captions not counted, about held-out scenes; runs of different seeds share none."""
    scenes = plan_scenes(n_questions, frames=frames, seed=seed, n_forms=len(forms))
    plan = Plan(str(bundle), forms, encoded, noise)
    if n_processes <= 1:
        return _ask_all((plan, scenes))
    parts = [(plan, scenes[i::n_processes]) for i in range(n_processes)]
    with ProcessPoolExecutor(n_processes, get_context("spawn")) as pool:
        return list(chain.from_iterable(pool.map(_ask_all, parts)))


def accuracy(outcomes: Iterable[Outcome]) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    """Accuracy, its standard error and the number of questions, for `all` and each kind.

    Questions about one scene are not independent, so the error is that of a mean over clusters (scenes).
    """
    scores: dict[str, dict[int, list[bool]]] = {name: defaultdict(list) for name in ("all", *KINDS)}
    for outcome in outcomes:
        scores[outcome.kind][outcome.scene_seed].append(outcome.right)
        if outcome.kind != "caption":
            scores["all"][outcome.scene_seed].append(outcome.right)
    share, error, number = {}, {}, {}
    for name, by_scene in scores.items():
        n = sum(map(len, by_scene.values()))
        if n == 0:
            continue
        mean = sum(map(sum, by_scene.values())) / n
        residuals = sum((sum(hits) - mean * len(hits)) ** 2 for hits in by_scene.values())
        share[name], error[name], number[name] = mean, math.sqrt(residuals) / n, n
    return share, error, number


def report(outcomes: list[Outcome]) -> dict[str, object]:
    """The JSON object that is printed: accuracy and standard error, in all and by prompt form and length."""
    share, error, number = accuracy(outcomes)
    by_form = {form: accuracy(o for o in outcomes if o.form == form)[0] for form in sorted({o.form for o in outcomes})}
    lengths = sorted({o.n_frames for o in outcomes})
    by_frames = {str(n): accuracy(o for o in outcomes if o.n_frames == n)[0] for n in lengths}
    rounded = {
        "accuracy": share, "standard_error": error, "accuracy_by_prompt_form": by_form, "accuracy_by_frames": by_frames,
    }  # fmt: skip
    return {"questions": sum(o.kind != "caption" for o in outcomes), "n": number} | {
        name: json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 4))
        for name, value in rounded.items()
    }


def main() -> None:
    """Parse the command line, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--questions", type=int, default=1000, help="how many at least, captions not counted")
    parser.add_argument("--prompt-form", choices=(*FORMS, "both"), default="generic")
    parser.add_argument("--frames", choices=tuple(DURATIONS), default="8", help="frames of a scene, one a second")
    parser.add_argument("--encoded", action="store_true", help="show real H.264 video of 256 pixels, decoded")
    parser.add_argument("--noise", type=float, help="grain of every scene, 0..255; drawn from 0 to 6 if not given")
    parser.add_argument("--seed", type=int, default=0, help="runs of different seeds share no scene")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.add_argument("--outcomes", type=Path, help="write every question and answer, as JSON lines")
    options = parser.parse_args()
    forms = FORMS if options.prompt_form == "both" else (options.prompt_form,)
    start = time.monotonic()
    outcomes = run(
        options.bundle,
        n_questions=options.questions,
        forms=forms,
        frames=options.frames,
        encoded=options.encoded,
        noise=options.noise,
        seed=options.seed,
        n_processes=options.processes,
    )
    if options.outcomes:
        lines = "".join(json.dumps(asdict(outcome) | {"right": outcome.right}) + "\n" for outcome in outcomes)
        options.outcomes.write_text(lines, encoding="utf-8")
    result = report(outcomes)
    asked = {
        "prompt_form": options.prompt_form,
        "frames": options.frames,
        "encoded": options.encoded,
        "noise": options.noise,
    }
    result |= asked | {"seed": options.seed, "seconds": round(time.monotonic() - start, 1)}
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    share, error, number = accuracy(outcomes)
    print(f"{'kind':<10} {'accuracy':>8}  {'± s.e.':>7} {'n':>6}")
    for name, value in share.items():
        print(f"{name:<10} {value:>8.3f}  {error[name]:>7.3f} {number[name]:>6}")


if __name__ == "__main__":
    main()
