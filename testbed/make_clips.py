"""Make the sample clips of the repository, real H.264 files, and their questions.

Which scenes: for each clip the first seed from its own start on (held out, like every seed below a million) whose
scene has the wanted number of objects, all of different shapes. Nothing was chosen by what the model answers.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from render import write_clip
from scenes import HELD_OUT_SEEDS, Scene, questions, sample_scene

FPS = 8


@dataclass(frozen=True)
class Clip:
    """A clip to be made: the seed from which a fitting scene is looked for, and what fits."""

    name: str
    first_seed: int
    duration_s: int
    n_objects: int


CLIPS = (
    Clip("two_shapes", 900_000, 8, 2),
    Clip("three_shapes", 910_000, 12, 3),
    Clip("one_minute", 920_000, 60, 3),
)


def find_scene(clip: Clip) -> Scene:
    """The first scene from the clip's seed on, of its length and number of objects, with all shapes different."""
    n_objects, duration_s = clip.n_objects, clip.duration_s
    for seed in range(clip.first_seed, HELD_OUT_SEEDS.stop):
        scene = sample_scene(seed, duration_s=duration_s)
        if len(scene.objects) == n_objects == len({item.shape for item in scene.objects}):
            return scene
    raise ValueError(f"no scene of {n_objects} objects in {duration_s} s")


def clip_questions() -> list[dict[str, str]]:
    """Questions of all clips: every kind, and of each kind only the first about its clip (order: both)."""
    rows = []
    for clip in CLIPS:
        kinds: set[str] = set()
        for question in questions(find_scene(clip)):
            if question.kind == "order" or question.kind not in kinds:
                row = {"clip": f"{clip.name}.mp4", "kind": question.kind}
                rows.append(row | {"question": question.text, "answer": question.answer})
            kinds.add(question.kind)
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "clips")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for clip in CLIPS:
        write_clip(find_scene(clip), out / f"{clip.name}.mp4", fps=FPS)
    (out / "questions.json").write_text(json.dumps(clip_questions(), indent=2) + "\n", encoding="utf-8")
