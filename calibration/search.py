"""Which groups must stay in float, so that a quantized model passes its gate: as few as a bounded search can find.

Groups are kept from the most sensitive down. How many is found by halving: everything quantized, then a number of kept
groups between what failed and what held. So at most 2 + ceil(log2(groups)) models are evaluated after the table, and
the one that is returned is one that was measured, not predicted. The same numbers give the same answer, in the
same order, so a search that was stopped goes on from its file of evaluations.

The drop of what is found was measured on the questions that chose it, so it is a little optimistic; a report on other
questions is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aurora_export.calibration.gate import Loss, Verdict
from aurora_export.errors import AccuracyError

Evaluate = Callable[[Iterable[str], str], Loss]
"""groups that are quantized, a name for who watches -> what is lost"""


@dataclass(frozen=True)
class Found:
    """The end of a search."""

    kept: tuple[str, ...]
    """groups in float, the most sensitive first"""
    verdict: Verdict
    n_evaluations: int


def most_evaluations(n_groups: int) -> int:
    """The bound: of a search, its table not counted."""
    return 2 + math.ceil(math.log2(max(1, n_groups)))


def search(ranked: Sequence[str], evaluate: Evaluate, *, max_drop: float) -> Found:
    """Find how many of the first of `ranked` must be kept for the drop to be at most `max_drop` points.

    Raises AccuracyError if the gate does not hold even with every group kept.
    """
    n_evaluations = 0

    def verdict_of(n_kept: int) -> Verdict:
        nonlocal n_evaluations
        n_evaluations += 1
        name = f"{n_kept} of {len(ranked)} groups kept, evaluation {n_evaluations} of {most_evaluations(len(ranked))}"
        return Verdict(evaluate(ranked[n_kept:], name), max_drop)

    first = verdict_of(0)
    if first.holds:
        return Found((), first, n_evaluations)
    fails, holds, found = 0, len(ranked), None
    while holds - fails > 1:
        middle = (fails + holds) // 2
        verdict = verdict_of(middle)
        if verdict.holds:
            holds, found = middle, verdict
        else:
            fails = middle
    if found is None:
        found = verdict_of(len(ranked))
        if not found.holds:
            raise AccuracyError(
                f"the gate cannot be met: with every group in float, {found.text}",
                hint="what is lost is not lost by quantized layers; give a larger --max-drop",
            )
    return Found(tuple(ranked[:holds]), found, n_evaluations)
