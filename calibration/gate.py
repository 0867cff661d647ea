"""Is a quantized model good enough? Losses of paired answers, and a verdict that says how sure it is.

The drop is in points of per cent: of accuracy where the right answers are known, else of the share of tokens that
the yardstick would have said too. Candidate and yardstick answer the same questions, so the drop is the mean of the
differences, question by question; questions about one video are not independent, so its standard error is that of a
mean over clusters (videos).

A gate holds if the drop that was measured is not over the limit. Whether the sample decides it is another matter: the
verdict is `decided` if the one-sided 95 % bounds of the drop lie on one side of the limit. Where few answers
differ the normal approximation is too sure of itself, so the bound is never nearer than 3/n (no difference in
n questions: with 95 % confidence less than 3/n differ).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from aurora_export.calibration.measures import Outcome
from aurora_export.errors import AccuracyError

ONE_SIDED_95 = 1.645
NONE_SEEN = 3.0
"""Nothing in n tries: with 95 % confidence the share is below this / n."""


@dataclass(frozen=True)
class Loss:
    """What a candidate loses against the yardstick, over the same questions."""

    n_questions: int
    n_videos: int
    n_tokens: int
    """places at which tokens were compared"""
    n_changed: int
    """answers that are other texts than the yardstick's"""
    agreement: float
    """share of tokens that the yardstick would have said too"""
    agreement_error: float
    """standard error"""
    kl: float
    """nats a token; over the tokens whose distributions were kept"""
    kl_error: float
    accuracy: float | None = None
    """share of right answers, if they are known"""
    yardstick_accuracy: float | None = None
    accuracy_error: float | None = None
    """standard error of the difference"""
    n_lost: int = 0
    """answers that were right and are not"""
    n_gained: int = 0

    @property
    def drop(self) -> float:
        """In points: what the gate limits."""
        if self.accuracy is None or self.yardstick_accuracy is None:
            return 100 * (1 - self.agreement)
        # Shares of whole answers: what the subtraction leaves behind the ninth digit is no drop.
        return round(100 * (self.yardstick_accuracy - self.accuracy), 9)

    @property
    def drop_error(self) -> float:
        """Standard error of `drop`."""
        return 100 * (self.agreement_error if self.accuracy_error is None else self.accuracy_error)

    @property
    def metric(self) -> Literal["accuracy", "agreement"]:
        """What `drop` is the drop of."""
        return "agreement" if self.accuracy is None else "accuracy"

    @property
    def n(self) -> int:
        """How many things `drop` is a mean over."""
        return self.n_tokens if self.accuracy is None else self.n_questions


def without_infinities(value: Any) -> Any:
    """What JSON can hold: None in the place of numbers that are not finite, as the error of a single video is."""
    if isinstance(value, dict):
        return {key: without_infinities(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinities(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def loss_of(candidate: Sequence[Outcome], yardstick: Sequence[Outcome]) -> Loss:
    """Compare outcomes of the same questions, in the same order. Raises ValueError if they are not."""
    if [one.question for one in candidate] != [one.question for one in yardstick]:
        raise ValueError("the two were asked different questions")
    videos = [one.question.video for one in candidate]
    agreement, agreement_error = _mean_of_clusters(
        (one.question.video, one.n_agreed, one.n_places) for one in candidate
    )
    kl, kl_error = _mean_of_clusters(
        (one.question.video, one.kl, one.n_places) for one in candidate if one.kl is not None
    )
    counts = {
        "n_questions": len(candidate),
        "n_videos": len(set(videos)),
        "n_tokens": sum(one.n_places for one in candidate),
        "n_changed": sum(one.answer != base.answer for one, base in zip(candidate, yardstick, strict=True)),
    }
    loss = Loss(**counts, agreement=agreement, agreement_error=agreement_error, kl=kl, kl_error=kl_error)
    if any(one.is_right is None for one in candidate):
        return loss
    right = [(bool(one.is_right), bool(base.is_right)) for one, base in zip(candidate, yardstick, strict=True)]
    differences = ((video, mine - theirs, 1) for video, (mine, theirs) in zip(videos, right, strict=True))
    return replace(
        loss,
        accuracy=sum(mine for mine, _ in right) / len(right),
        yardstick_accuracy=sum(theirs for _, theirs in right) / len(right),
        accuracy_error=_mean_of_clusters(differences)[1],
        n_lost=sum(theirs and not mine for mine, theirs in right),
        n_gained=sum(mine and not theirs for mine, theirs in right),
    )


def _mean_of_clusters(terms: Iterable[tuple[str, float, int]]) -> tuple[float, float]:
    """Mean and its standard error over clusters of unequal size. terms: (cluster, sum, count)."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for cluster, value, count in terms:
        sums[cluster][0] += value
        sums[cluster][1] += count
    n = sum(count for _, count in sums.values())
    if n == 0:
        return 0.0, 0.0
    mean = sum(value for value, _ in sums.values()) / n
    squares = sum((value - mean * count) ** 2 for value, count in sums.values())
    n_clusters = len(sums)
    if n_clusters == 1:  # which says nothing about how much clusters differ
        return mean, math.inf
    return mean, math.sqrt(squares * n_clusters / (n_clusters - 1)) / n


@dataclass(frozen=True)
class Verdict:
    """Whether a loss is within a gate, and whether the sample is large enough to say so."""

    loss: Loss
    max_drop: float
    """points"""

    @property
    def holds(self) -> bool:
        """Whether the drop that was measured is within the limit."""
        return self.loss.drop <= self.max_drop

    @property
    def _margin(self) -> float:
        return max(ONE_SIDED_95 * self.loss.drop_error, 100 * NONE_SEEN / self.loss.n)

    @property
    def bounds(self) -> tuple[float, float]:
        """The drop is above the first, and below the second, each with 95 % confidence; points."""
        return self.loss.drop - self._margin, self.loss.drop + self._margin

    @property
    def is_decided(self) -> bool:
        """Whether the sample can tell on which side of the limit the drop is."""
        low, high = self.bounds
        return high <= self.max_drop or low > self.max_drop

    @property
    def n_needed(self) -> int | None:
        """About how many questions (or tokens) would decide it, if the drop is as measured; None if no number would."""
        distance = abs(self.max_drop - self.loss.drop)
        if distance == 0 or not math.isfinite(self.loss.drop_error):
            return None
        by_spread = self.loss.n * (ONE_SIDED_95 * self.loss.drop_error / distance) ** 2
        return math.ceil(max(by_spread, 100 * NONE_SEEN / distance))

    @property
    def text(self) -> str:
        """One sentence or two."""
        loss, what = self.loss, "questions" if self.loss.metric == "accuracy" else "tokens"
        # The error of a single video is unknown.
        spread = f" ± {loss.drop_error:.2f}" if math.isfinite(loss.drop_error) else ""
        found = f"{loss.metric} drops by {loss.drop:.2f}{spread} points over {loss.n} {what}"
        side = "within" if self.holds else "over"
        sentence = f"{found}: {side} the limit of {self.max_drop:g}"
        if self.is_decided:
            return sentence
        more = f"about {self.n_needed} {what} would" if self.n_needed else f"no number of {what} would, at this drop"
        return f"{sentence}. The sample cannot decide it; {more}"


def require(verdict: Verdict, *, hint: str) -> None:
    """Raise AccuracyError, which ends a command with its own exit code, unless the gate holds."""
    if not verdict.holds:
        raise AccuracyError(verdict.text, hint=hint)
