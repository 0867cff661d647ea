from __future__ import annotations

import numpy as np
import pytest

from aurora_export.calibration.visual_measures import compare_visual, cosine, relative_distance


def outputs(n_frames=3, n_tokens=6, n_patches=12, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "visual_tokens": rng.normal(size=(n_frames, n_tokens, 8)).astype(np.float32),
        "token_sizes": np.full((n_frames, n_tokens), n_patches // n_tokens, np.int32),
        "token_of_patch": np.tile(np.arange(n_patches, dtype=np.int32) % n_tokens, (n_frames, 1)),
    }


def test_equal_outputs_lose_nothing():
    loss = compare_visual(outputs(), outputs())
    assert (loss.pooled, loss.matched) == (pytest.approx(1), pytest.approx(1))
    assert (loss.sizes, loss.alike, loss.positional) == (0, 1, 0)


def test_moved_tokens_are_the_same_set():
    """Position is not compared where merging decided otherwise."""
    moved = {name: array.copy() for name, array in outputs().items()}
    order = np.array([1, 0, 3, 2, 5, 4])
    moved["visual_tokens"] = moved["visual_tokens"][:, order]
    moved["token_of_patch"] = order[moved["token_of_patch"]].astype(np.int32)
    loss = compare_visual(moved, outputs())
    assert (loss.pooled, loss.matched) == (pytest.approx(1), pytest.approx(1))
    assert (loss.alike, loss.positional) == (0, None)


def test_other_tokens_and_sizes_show():
    loss = compare_visual(outputs(seed=1), outputs())
    assert loss.matched < 0.95
    assert loss.positional > 0.5
    sizes = outputs()
    sizes["token_sizes"] = np.tile(np.array([1, 3, 2, 2, 2, 2], np.int32), (3, 1))
    assert compare_visual(sizes, outputs()).sizes == pytest.approx(1 / 12)


def test_another_kept_ratio_is_no_crash():
    loss = compare_visual(outputs(n_tokens=4), outputs())
    assert loss.alike == 0
    assert loss.positional is None
    assert 0 < loss.sizes < 1


def test_edges():
    with pytest.raises(ValueError, match="no frames"):
        compare_visual({name: array[:0] for name, array in outputs().items()}, {n: a[:0] for n, a in outputs().items()})
    zeros, ones = np.zeros(3), np.ones(3)
    assert (relative_distance(zeros, zeros), relative_distance(ones, zeros)) == (0, float("inf"))
    assert relative_distance(np.array([np.nan]), ones[:1]) == float("inf")
    assert (cosine(zeros, zeros), cosine(zeros, ones)) == (1, 0)
