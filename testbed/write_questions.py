"""Held-out scenes as files: clips and a list of questions, for whatever reads those and not scenes.

    python testbed/write_questions.py build/noisy --questions 1000 --noise 60
    aurora-export measure build/int8.aurora --against build/testbed.aurora --questions build/noisy/questions.jsonl

The scenes of `evaluate.py` and the questions that it counts in `all`: captions are left out. Clips are one frame a
second at 64 pixels, without loss (FFV1 in Matroska), so that the model sees to the bit what `evaluate.py` shows it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from evaluate import DURATIONS, Plan, choose_questions, plan_scenes, scene_of, show

LIST_NAME = "questions.jsonl"


def write_questions(
    folder: Path, *, n_questions: int, frames: str = "8", noise: float | None = None, seed: int = 0
) -> Iterator[str]:
    """Write clips of at least `n_questions`, then the list; yields the name of each clip.

    The list comes last: where it is, everything that it names is.
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    plan = Plan("", ("generic",), encoded=False, noise=noise)
    lines = []
    for number, duration_s in plan_scenes(n_questions, frames=frames, seed=seed):
        scene = scene_of(plan, number, duration_s)
        name = f"clips/{number}.mkv"
        write_lossless(list(show(scene, encoded=False)), folder / name)
        for asked in (q for q in choose_questions(scene) if q.kind != "caption"):
            line = {"video": name, "prompt": asked.text, "answer": asked.answer, "kind": asked.kind}
            lines.append(json.dumps(line) + "\n")
        yield name
    (folder / LIST_NAME).write_text("".join(lines), encoding="utf-8")


def write_lossless(frames: list[np.ndarray], path: Path) -> None:
    """Encode frames, uint8 (H, W, 3), at one a second, so that decoding gives the same bytes."""
    import av

    with av.open(str(path), "w") as container:
        container.metadata.clear()
        stream = container.add_stream("ffv1", rate=1)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def main() -> None:
    """Parse the command line, write, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=1000, help="how many at least, captions not counted")
    parser.add_argument("--frames", choices=tuple(DURATIONS), default="8", help="frames of a scene, one a second")
    parser.add_argument("--noise", type=float, help="grain of every scene, 0..255; drawn from 0 to 6 if not given")
    parser.add_argument("--seed", type=int, default=0, help="runs of different seeds share no scene")
    options = parser.parse_args()
    written = write_questions(
        options.folder,
        n_questions=options.questions,
        frames=options.frames,
        noise=options.noise,
        seed=options.seed,
    )
    n_clips = sum(1 for _ in written)
    print(f"{options.folder / LIST_NAME}: {n_clips} clips", file=sys.stderr)


if __name__ == "__main__":
    main()
