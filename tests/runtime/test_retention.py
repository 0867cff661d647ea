from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aurora_export.runtime.retention import kept_indices

CHECKPOINTS = st.lists(st.tuples(st.floats(0, 1e7), st.integers(1, 10**8)), max_size=60).map(
    lambda entries: [list(column) for column in zip(*sorted(entries), strict=True)] or [[], []]
)


@given(CHECKPOINTS, st.integers(0, 10**9))
def test_within_the_budget(checkpoints, budget):
    times, sizes = checkpoints
    kept = kept_indices(times, sizes, budget)
    assert kept == sorted(set(kept))
    assert sum(sizes[index] for index in kept) <= budget or len(kept) <= 1
    assert kept[-1:] == [len(times) - 1][: len(times)], "the newest stays"
    assert len(kept) < 2 or kept[0] == 0, "and the oldest"


@given(CHECKPOINTS, st.integers(0, 10**9))
def test_what_is_kept_is_kept_again(checkpoints, budget):
    times, sizes = checkpoints
    kept = kept_indices(times, sizes, budget)
    again = kept_indices([times[i] for i in kept], [sizes[i] for i in kept], budget)
    assert again == list(range(len(kept)))


def test_nothing_is_lost_that_fits():
    assert kept_indices([0, 1, 2], [5, 5, 5], 15) == [0, 1, 2]
    assert kept_indices([], [], 0) == []


def test_times_must_ascend():
    with pytest.raises(ValueError, match="must ascend"):
        kept_indices([2, 1], [1, 1], 9)


@pytest.mark.parametrize("n_kept", [8, 30, 100])
def test_dense_near_now_sparse_far_back(n_kept):
    """Three days of a checkpoint a minute, thinned after each: gaps grow with age, and no faster."""
    times: list[float] = []
    for minute in range(3 * 24 * 60):
        times.append(60.0 * minute)
        times = [times[index] for index in kept_indices(times, [1] * len(times), n_kept)]
    assert len(times) == n_kept
    assert times[0] == 0
    assert times[-1] - times[-2] == 60, "the last minute is there"
    now = times[-1]
    ages_and_gaps = [(now - earlier, later - earlier) for earlier, later in pairwise(times)]
    # n points over a range of 4320 : 1 in proportion to age could be a factor of 4320^(1/n) apart; twice that is good.
    best = 1 - 4320 ** (-1 / n_kept)
    assert all(gap <= max(60, 3 * best * age) for age, gap in ages_and_gaps[:-1])
    old, young = ages_and_gaps[: n_kept // 3], ages_and_gaps[-n_kept // 3 :]
    assert sum(gap for _, gap in old) > 5 * sum(gap for _, gap in young)
