"""Small videos, lists of questions about them, and bundles that answer a little differently."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from aurora_export.runtime.opened_bundle import OpenedBundle
from handmade_video import write_video

PROMPTS = ("What is it?", "How many?", "Which way?")


def write_questions(folder: Path, *, n_videos: int = 3, answer: str | None = "yes") -> Path:
    """Three questions about each of some videos; answer None leaves the answers out."""
    lines = []
    for i in range(n_videos):
        write_video(folder / f"{i}.mp4", n_frames=20 + 10 * i)
        for prompt in PROMPTS:
            line = {"video": f"{i}.mp4", "prompt": prompt, "kind": "which" if prompt[0] == "W" else "how"}
            lines.append(json.dumps(line if answer is None else {**line, "answer": answer}))
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class NoisyLanguage:
    """A language engine whose logits and state are multiplied by 1 + noise; NaN by a noise of NaN."""

    def __init__(self, engine, noise):
        self._engine, self._noise, self._random = engine, noise, np.random.default_rng(0)
        self.spec, self.backend = engine.spec, engine.backend

    def run(self, inputs):
        return self._engine.run(inputs)

    def open_loop(self):
        return NoisyLoop(self._engine.open_loop(), self._noise, self._random)


class NoisyLoop:
    """A loop of a NoisyLanguage."""

    def __init__(self, loop, noise, random):
        self._loop, self._noise, self._random = loop, noise, random

    def advance(self, embeddings):
        logits = self._loop.advance(embeddings)
        return (logits * (1 + self._noise * self._random.normal(size=logits.shape))).astype(np.float32)

    def feed(self, embeddings):
        self._loop.feed(embeddings)

    def read_state(self):
        return {name: (array * (1 + self._noise)).astype(np.float32) for name, array in self._loop.read_state().items()}

    def write_state(self, arrays):
        self._loop.write_state({name: (array / (1 + self._noise)).astype(np.float32) for name, array in arrays.items()})


def with_noise(opened: OpenedBundle, noise: float) -> OpenedBundle:
    """The same bundle, off by this share."""
    return replace(opened, language=NoisyLanguage(opened.language, noise))
