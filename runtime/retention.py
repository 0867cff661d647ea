"""Which checkpoints stay when the space for them is limited: dense near now, sparse far back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def kept_indices(times_s: Sequence[float], sizes: Sequence[int], budget_bytes: int) -> list[int]:
    """Indices of the checkpoints to keep, so that their sizes add up to no more than the budget.

    times_s: ascending, seconds of video; the last one is now. sizes: bytes of each, in the same order.
    The newest always stays, even if it alone is over the budget, and the oldest as long as two fit. Of the others
    the one goes first whose gap, once it is gone, is the smallest in proportion to how long ago the gap began; of
    equals the older. So gaps grow in proportion to age, also when checkpoints are thinned after each that is added.
    Raises ValueError if the times are not ascending.
    """
    if any(later < earlier for earlier, later in pairwise(times_s)):
        raise ValueError("the times of checkpoints must ascend")
    kept = list(range(len(times_s)))
    total = sum(sizes)
    while total > budget_bytes and len(kept) > 1:
        total -= sizes[kept.pop(_least_missed([times_s[index] for index in kept]))]
    return kept


def _least_missed(times_s: list[float]) -> int:
    """Position, among two or more, of the checkpoint that goes next."""
    if len(times_s) == 2:
        return 0
    now = times_s[-1]

    def cost(position: int) -> float:
        before, after = times_s[position - 1], times_s[position + 1]
        return (after - before) / (now - before) if now > before else 0.0

    return min(range(1, len(times_s) - 1), key=cost)
