"""Visual tokens of two graphs beside each other, as merged sets.

Merging moves tokens: one similarity that is decided otherwise shifts every token after it, and positional cosines of
0.4 stand beside answers that are all right. So tokens are compared by their mean over patches (`pooled`), by the one
that is most alike (`matched`), and by their sizes as a multiset. Position means something only where nothing
merged otherwise: `positional` is over such frames, all of them in a twin at kept ratio 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from aurora_export.frames import resize_frame
from aurora_export.runtime.opened_bundle import OpenedBundle
from aurora_export.runtime.video import FrameSource, open_source

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class VisualLoss:
    """Means over frames."""

    n_frames: int
    pooled: float
    """cosine of the means over patches"""
    matched: float
    """for each token the cosine of the most alike one, weighted by size"""
    sizes: float
    """share of patches that must change their token to make the sizes equal"""
    alike: float
    """share of frames in which every patch went to the same token"""
    positional: float | None
    """relative error over such frames, position by position: norm of the difference / norm; None if there are none"""


def compare_visual(actual: Arrays, expected: Arrays) -> VisualLoss:
    """Compare the outputs of the vision graph for the same frames.

    By their names in the contract, shapes (F, K, E), (F, K), (F, P). Raises ValueError without frames.
    """
    n_frames = len(expected["visual_tokens"])
    if n_frames == 0:
        raise ValueError("no frames")
    rows = [
        _compare_frame({name: actual[name][i] for name in actual}, {name: expected[name][i] for name in expected})
        for i in range(n_frames)
    ]
    pooled, matched, sizes = (float(np.mean([row[i] for row in rows])) for i in range(3))
    alike = [i for i, row in enumerate(rows) if row[3]]
    tokens, reference = (side["visual_tokens"][alike].astype(np.float64) for side in (actual, expected))
    positional = relative_distance(tokens, reference) if alike else None
    return VisualLoss(n_frames, pooled, matched, sizes, len(alike) / n_frames, positional)


def frames_of(opened: OpenedBundle, videos: Iterable[FrameSource]) -> Iterator[np.ndarray]:
    """Frames of videos as the vision graph takes them, uint8 (S, S, 3), one a second of video."""
    config = opened.manifest.config
    for video in videos:
        with open_source(video) as frames:
            for frame in frames:
                yield resize_frame(
                    frame.pixels,
                    size=config.vision.image_size,
                    mode=config.frames.resize,
                    pad_value=config.frames.pad_value,
                )


def _compare_frame(actual: Arrays, expected: Arrays) -> tuple[float, float, float, bool]:
    tokens, reference = (side["visual_tokens"].astype(np.float64) for side in (actual, expected))
    sizes, expected_sizes = (side["token_sizes"].astype(np.int64) for side in (actual, expected))
    pooled = cosine(sizes @ tokens, expected_sizes @ reference)
    norms = [np.maximum(np.linalg.norm(side, axis=-1, keepdims=True), 1e-30) for side in (tokens, reference)]
    best = ((reference / norms[1]) @ (tokens / norms[0]).T).max(axis=1)
    matched = float(best @ expected_sizes / expected_sizes.sum())
    # Of another kept ratio there are more tokens or fewer: those that are not there have no patches.
    n_tokens = max(len(sizes), len(expected_sizes))
    ordered = [np.pad(np.sort(side), (n_tokens - len(side), 0)) for side in (sizes, expected_sizes)]
    moved = np.abs(ordered[0] - ordered[1]).sum() / 2 / expected_sizes.sum()
    alike = len(sizes) == len(expected_sizes) and bool((actual["token_of_patch"] == expected["token_of_patch"]).all())
    return pooled, matched, float(moved), alike


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of two vectors; 1 for two of zeros."""
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / norm if norm else float(not one.any() and not other.any())


def relative_distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected; infinite if anything is not finite."""
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    difference = float(np.linalg.norm(np.asarray(actual, np.float64) - expected))
    norm = float(np.linalg.norm(np.asarray(expected, np.float64)))
    return difference / norm if norm else float("inf") if difference else 0.0
