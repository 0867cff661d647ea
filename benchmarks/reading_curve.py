"""How long a transformer reads: measured as far as it was read, integrated from measured rates where it was not.

A token costs a part that is the same for all, and a part that grows with the tokens before it; so rates between two
measured depths lie on a line nearly.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["measured", "integrated", "extrapolated"]


@dataclass(frozen=True)
class ReadingCurve:
    """What was measured of one model."""

    chunks: tuple[tuple[int, float], ...]
    """Tokens and seconds of the chunks of one text, read from its begin to its end"""
    rates: tuple[tuple[float, float], ...]
    """Further depth, and seconds of a token there, deepest last"""

    @property
    def n_read(self) -> int:
        """Tokens that were really read."""
        return sum(n for n, _ in self.chunks)

    def kind(self, n_tokens: int) -> Kind:
        """What the seconds for so many tokens are."""
        if n_tokens <= self.n_read:
            return "measured"
        return "integrated" if self.rates and n_tokens <= self.rates[-1][0] else "extrapolated"

    def seconds(self, n_tokens: int) -> float:
        """To read so many tokens from nothing. Raises ValueError if nothing was measured."""
        total, left = 0.0, n_tokens
        for n, seconds in self.chunks:
            part = min(n, left)
            total += seconds * part / n
            left -= part
        return total if not left else total + self._integral(self.n_read, n_tokens)

    def _integral(self, begin: int, end: int) -> float:
        """Of the line through the measured rates, beyond what was read."""
        points = [*self._last_rates(), *self.rates]
        if len(points) < 2:
            raise ValueError("rates at two depths are needed to go on from what was read")
        total = 0.0
        for index, (low, high) in enumerate(pairwise(points)):
            is_first, is_last = index == 0, index == len(points) - 2
            left = begin if is_first else max(begin, low[0])
            right = end if is_last else min(end, high[0])
            if right > left:
                total += (right - left) * _between(low, high, (left + right) / 2)
        return total

    def _last_rates(self) -> list[tuple[float, float]]:
        """The rate of what was read last; where there are no others, that of what was read first too."""
        found, depth = [], 0
        for n, seconds in self.chunks:
            found.append((depth + n / 2, seconds / n))
            depth += n
        return found[-1:] if self.rates else found[:: max(1, len(found) - 1)]


def _between(low: tuple[float, float], high: tuple[float, float], at: float) -> float:
    """On the line through two points."""
    return low[1] + (high[1] - low[1]) * (at - low[0]) / (high[0] - low[0])


def on_line(points: list[tuple[float, float]], at: float) -> float:
    """The value at a place between measured points, which are in order, or beyond: on the line through the nearest."""
    if len(points) == 1:
        return points[0][1]
    for low, high in pairwise(points):
        if at <= high[0]:
            return _between(low, high, at)
    return _between(points[-2], points[-1], at)
