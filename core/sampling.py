"""From logits to the next token: greedy, or drawn, the same draw in every implementation.

The steps and their order are those of the `rwkv` package (`PIPELINE`), which World models are used with:
penalties, softmax, top-p, top-k, power 1 / temperature, draw. Where that code leaves the outcome to a sort's
order of equals or to rounding, the rule here is fixed: the lower id wins. Everything is computed in IEEE
doubles from float32 logits, sums run from left to right, so another language gives the same token unless a
last-bit difference of `exp` falls on the very edge of a draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from aurora_export.errors import IntegrityError, UsageError


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen. The default is greedy without penalties. Raises UsageError for a bad value."""

    temperature: float = 0.0
    """0: always the most likely token. 1: as the model says."""
    top_p: float = 1.0
    """Only the most likely tokens that together reach this probability; 1: all. All that equal the last one stay."""
    top_k: int = 0
    """Only this many of the most likely tokens; 0: all."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token already produced."""
    frequency_penalty: float = 0.0
    """Taken off once more for each time that it was produced, old times counting less (`penalty_decay`)."""
    penalty_decay: float = 0.996
    """Factor on all counts at each token."""
    seed: int = 0

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, lambda value: value >= 0, "0 or more")
        _check_number("top_p", self.top_p, lambda value: 0 < value <= 1, "over 0 and at most 1")
        _check_number("presence_penalty", self.presence_penalty, lambda value: abs(value) <= 100, "from -100 to 100")
        _check_number("frequency_penalty", self.frequency_penalty, lambda value: abs(value) <= 100, "from -100 to 100")
        _check_number("penalty_decay", self.penalty_decay, lambda value: 0 <= value <= 1, "from 0 to 1")
        _check_whole("top_k", self.top_k, lambda value: value >= 0, "0 or more")
        _check_whole("seed", self.seed, lambda value: 0 <= value < 1 << 64, "from 0 to 2^64 - 1")


class SplitMix64:
    """A 64-bit generator of ten lines, so that all languages draw the same (Steele, Lea, Flood 2014)."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next_uint64(self) -> int:
        """The next number of the sequence, 0 to 2^64 - 1."""
        mask = (1 << 64) - 1
        self.state = (self.state + 0x9E3779B97F4A7C15) & mask
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        return z ^ (z >> 31)

    def next_float(self) -> float:
        """Uniform in [0, 1): the upper 53 bits."""
        return (self.next_uint64() >> 11) * 2.0**-53


class Sampler:
    """Chooses the tokens of one answer; remembers what it chose (for the penalties) and where its generator stands."""

    def __init__(self, options: SamplingOptions | None = None) -> None:
        self.options = options or SamplingOptions()
        self._random = SplitMix64(self.options.seed)
        self._counts: dict[int, float] = {}
        self._penalised = bool(self.options.presence_penalty or self.options.frequency_penalty)

    def next(self, logits: NDArray[np.floating]) -> int:
        """The next token id. logits: shape (V,), not changed; -inf forbids a token.

        Raises IntegrityError for NaN, +inf, or nothing but -inf.
        """
        scores = np.array(logits, np.float64)
        if scores.ndim != 1 or not scores.size:
            raise UsageError(f"logits must have shape (V,), not {scores.shape}")
        if not -np.inf < scores.max() < np.inf:  # max is NaN where any is
            _refuse_logits(scores)
        if self._penalised and self._counts:
            ids = np.fromiter(self._counts.keys(), np.int64)
            counts = np.fromiter(self._counts.values(), np.float64)
            scores[ids] -= self.options.presence_penalty + counts * self.options.frequency_penalty

        token = int(np.argmax(scores)) if self.options.temperature == 0 else self._drawn(scores)

        if self._penalised:
            decay = self.options.penalty_decay
            self._counts = {token_id: count * decay for token_id, count in self._counts.items()}
            self._counts[token] = self._counts.get(token, 0.0) + 1.0
        return token

    def _drawn(self, scores: NDArray[np.float64]) -> int:
        scores -= scores.max()
        kept = np.arange(len(scores))
        if self.options.top_p < 1:
            kept = _nucleus(scores, self.options.top_p)
        if 0 < self.options.top_k < len(kept):
            # Stable, so of equals the lower ids stay.
            kept = np.sort(kept[np.argsort(-scores[kept], kind="stable")[: self.options.top_k]])
        # (p / p_max)^(1 / T), which unlike p^(1 / T) cannot underflow to nothing at a low T.
        with np.errstate(over="ignore"):
            cumulative = np.cumsum(np.exp(scores[kept] / self.options.temperature))
        target = self._random.next_float() * cumulative[-1]
        return int(kept[np.searchsorted(cumulative, target, side="right")])


def _nucleus(scores: NDArray[np.float64], top_p: float) -> NDArray[np.intp]:
    """Ids, ascending, of the tokens at least as likely as the one with which the most likely ones reach top_p."""
    weights = np.exp(scores)
    descending = np.sort(weights)[::-1]
    cumulative = np.cumsum(descending)
    cutoff = descending[np.searchsorted(cumulative, top_p * cumulative[-1])]
    return np.flatnonzero(weights >= cutoff)


def _refuse_logits(scores: NDArray[np.float64]) -> NoReturn:
    n_nan, n_infinite = int(np.isnan(scores).sum()), int(np.isposinf(scores).sum())
    found = f"{n_nan} NaN and {n_infinite} infinite values" if n_nan or n_infinite else "only -inf"
    raise IntegrityError(
        f"the language model returned logits with {found} among {len(scores)}",
        hint="`aurora-export check` compares the bundle with its reference; in fp16, try --precision fp32",
    )


def _check_number(name: str, value: float, in_range: Callable[[float], bool], expected: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not in_range(value):
        raise UsageError(f"{name} is {value!r}; it must be a number {expected}")


def _check_whole(name: str, value: int, in_range: Callable[[int], bool], expected: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not in_range(value):
        raise UsageError(f"{name} is {value!r}; it must be a whole number {expected}")
