"""How far a recurrent model drifts from its yardstick as a sequence grows: state and next token, up to 4,096 tokens.

Both language graphs read the same embeddings, so what differs is the graph alone; errors of a step stay in the state
and are read again by the next one. What they read is what the product feeds them: visual tokens of the yardstick, frame
after frame, the videos one after the other and again from the first when they are over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise

import numpy as np

from aurora_export.calibration.measures import Progress, kl_divergence, log_softmax
from aurora_export.calibration.visual_measures import frames_of, relative_distance
from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES
from aurora_export.errors import UsageError
from aurora_export.runtime.opened_bundle import OpenedBundle

LENGTHS = (16, 64, 256, 1024, 4096)
"""Tokens after which the two are compared."""


@dataclass(frozen=True)
class Drift:
    """The difference after some number of tokens."""

    n_tokens: int
    states: dict[str, float]
    """name of a state -> relative distance of the worst layer"""
    logits: float
    """relative distance, means taken off: a constant changes no probability"""
    kl: float
    """nats"""
    is_same_token: bool
    """whether both would say the same next token"""


def measure_drift(
    candidate: OpenedBundle,
    yardstick: OpenedBundle,
    videos: Sequence[str],
    *,
    lengths: Sequence[int] = LENGTHS,
    progress: Progress | None = None,
) -> list[Drift]:
    """Let both read the same tokens; compare at each of `lengths`, which increase.

    Raises UsageError without videos, and what opening a video raises.
    """
    if not videos:
        raise UsageError("drift is measured over videos, and there are none")
    tokens = _visual_tokens(yardstick, videos, lengths[-1])
    loops = [side.language.open_loop() for side in (candidate, yardstick)]
    rows = []
    for start, end in pairwise((0, *lengths)):
        chunk = np.concatenate([next(tokens) for _ in range(end - start)])
        for i in range(0, len(chunk), MAX_CHUNK_TOKENS):
            logits, expected = (loop.advance(chunk[i : i + MAX_CHUNK_TOKENS]) for loop in loops)
        states, expected_states = (loop.read_state() for loop in loops)
        rows.append(
            Drift(
                end,
                {name: _worst_layer(states[name], expected_states[name]) for name in STATE_NAMES},
                relative_distance(logits - logits.mean(), expected - expected.mean()),
                float(kl_divergence(log_softmax(expected), log_softmax(logits))),
                bool(logits.argmax() == expected.argmax()),
            )
        )
        if progress is not None:
            progress(end / lengths[-1])
    return rows


def _worst_layer(actual: np.ndarray, expected: np.ndarray) -> float:
    return max(relative_distance(mine, theirs) for mine, theirs in zip(actual, expected, strict=True))


def _visual_tokens(opened: OpenedBundle, videos: Sequence[str], n_tokens: int) -> Iterator[np.ndarray]:
    """At least n_tokens visual tokens one by one, shape (1, E); each frame is run once, and no more than are needed."""
    read, n_read = list[np.ndarray](), 0
    for pixels in frames_of(opened, videos):
        tokens = opened.vision.run({"frames": pixels[None]})["visual_tokens"][0]
        read.append(tokens)
        yield from tokens[:, None]
        n_read += len(tokens)
        if n_read >= n_tokens:
            return
    yield from (token for tokens in cycle(read) for token in tokens[:, None])
