"""A frame on its way into the state: resized and through the vision graph, not yet read by the language graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS
from aurora_export.runtime.opened_bundle import OpenedBundle
from aurora_export.runtime.stages import Clock, WatchedFrame
from aurora_export.runtime.video import Frame


@dataclass(frozen=True)
class SeenFrame:
    """What the vision graph made of a frame, the text that stands before it, and its pixels as they were resized."""

    watched: WatchedFrame
    ids_before: tuple[int, ...]
    resized: np.ndarray
    """uint8, shape (S, S, 3)."""

    @property
    def n_tokens(self) -> int:
        """What it takes of a run of the language graph."""
        return len(self.ids_before) + len(self.watched.visual_tokens)

    def embeddings(self, model: OpenedBundle) -> np.ndarray:
        """Text and visual tokens, float32, shape (n_tokens, E)."""
        tokens = self.watched.visual_tokens
        return np.concatenate([model.embed_ids(self.ids_before), tokens]) if self.ids_before else tokens


def see_frame(
    model: OpenedBundle, index: int, frame: Frame, ids_before: tuple[int, ...], *, is_resized: bool, clock: Clock
) -> SeenFrame:
    """One frame through the vision graph."""
    resized = frame.pixels if is_resized else model.resize(frame.pixels)
    clock.lap("resize")
    # One frame in a run, so that no result depends on how frames were batched.
    output = {name: array[0] for name, array in model.vision.run({"frames": resized[None]}).items()}
    clock.lap("vision")
    watched = WatchedFrame(
        index, frame.time_s, output["visual_tokens"], output["token_sizes"], output["token_of_patch"]
    )
    return SeenFrame(watched, ids_before, resized)


def is_full(waiting: Sequence[SeenFrame]) -> bool:
    """Whether one more frame like the last would not fit into the same run of the language graph.

    A run reads all weights once, however many tokens it has: two frames of 92 tokens take less in one run than in two.
    """
    return sum(seen.n_tokens for seen in waiting) + waiting[-1].n_tokens > MAX_CHUNK_TOKENS
