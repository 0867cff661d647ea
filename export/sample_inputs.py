"""Inputs that a build is verified on: made from seeds, so that everyone measures on the same ones. Needs no torch."""

from __future__ import annotations

import numpy as np

SEED = 20240731

N_BLOBS = 6


def sample_frames(n_frames: int, side: int, *, seed: int = SEED) -> np.ndarray:
    """Frames by turns smooth (as most of a video is), noise (no two patches alike) and smooth with noise on half of it.

    Returns uint8, shape (F, S, S, 3).
    """
    rng = np.random.default_rng(seed)
    makers = (_smooth, _noise, _half_noise)
    return np.stack([makers[i % len(makers)](rng, side) for i in range(n_frames)])


def sample_embeddings(table: np.ndarray, n_sequences: int, n_tokens: int, *, seed: int = SEED) -> np.ndarray:
    """Embeddings as a prompt has them: words, and vectors of the same scale that are no words, as visual tokens are.

    table: the embedding table, shape (V, E).  Returns float32, shape (B, T, E).
    """
    rng = np.random.default_rng(seed)
    words = np.asarray(table[rng.integers(0, len(table), (n_sequences, n_tokens))], np.float32)
    scale = words.std() or 1.0
    others = rng.normal(0, scale, words.shape).astype(np.float32)
    return np.where(rng.random((n_sequences, n_tokens, 1)) < 0.5, words, others)


def _smooth(rng: np.random.Generator, side: int) -> np.ndarray:
    """A gradient with soft blobs of colour on it."""
    y, x = np.mgrid[0:side, 0:side] / side
    frame = np.stack([rng.uniform(60, 160) + rng.uniform(-60, 60) * x + rng.uniform(-60, 60) * y for _ in "rgb"], -1)
    for _ in range(N_BLOBS):
        centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.25)
        blob = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / radius**2)
        frame = frame + blob[..., None] * rng.uniform(-90, 90, 3)
    return frame.clip(0, 255).astype(np.uint8)


def _noise(rng: np.random.Generator, side: int) -> np.ndarray:
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def _half_noise(rng: np.random.Generator, side: int) -> np.ndarray:
    frame = _smooth(rng, side)
    frame[:, side // 2 :] = _noise(rng, side)[:, side // 2 :]
    return frame
