"""From a histogram of absolute values to the range of a code: max, percentile, entropy, or least squared error.

All methods see the code itself: `int8` has 128 levels at equal distances, `fp8` (E4M3) 127 that are dense near zero.
A range ends at an edge of a bin or at the maximum; beyond it values are clipped.
"""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np

from aurora_export.calibration.recipes import LARGEST
from aurora_export.calibration.tensor_statistics import N_BINS, TensorStatistics
from aurora_export.errors import UsageError

METHODS = ("max", "percentile", "entropy", "mse")
DEFAULT_PERCENTILE = 99.99

N_CANDIDATES = 256
"""Ranges that entropy and mse compare, equally far apart from 1/256 of the last bin in use to its end."""

SMOOTHING_COUNT = 1e-4
"""Stands for an empty bin in the quantized distribution, as a share of one value: the logarithm of 0 is none."""


def choose_range(
    statistics: TensorStatistics, kind: str, *, method: str, percentile: float = DEFAULT_PERCENTILE
) -> float:
    """Where the codes of a type end, at most the maximum.

    kind: `int8` or `fp8`.  method: of METHODS.  percentile: share of the values, in percent, that are not clipped.
    Raises UsageError for an unknown method or percentile, ValueError if nothing but zeros was seen.
    """
    if method not in METHODS:
        raise UsageError(f"method {method}: unknown", hint=f"one of {', '.join(METHODS)}")
    if statistics.maximum == 0:
        raise ValueError("nothing but zeros: there is no range")
    if method == "max":
        return statistics.maximum
    if method == "percentile":
        return _percentile(statistics, percentile)
    ends = _candidates(statistics)
    loss = _divergences if method == "entropy" else _squared_errors
    losses = loss(statistics, ends, levels_of(kind))
    # Of equal ones the widest: nothing is clipped without a gain.
    best = len(losses) - 1 - int(np.argmin(losses[::-1]))
    return min(float(ends[best]), statistics.maximum)


def _percentile(statistics: TensorStatistics, percentile: float) -> float:
    if not 50 <= percentile <= 100:
        raise UsageError(f"percentile is {percentile:g}; from 50 to 100 is possible")
    cumulated = np.cumsum(statistics.counts)
    index = int(np.searchsorted(cumulated, cumulated[-1] * percentile / 100))
    end = (min(index, N_BINS - 1) + 1) * statistics.bin_width
    return min(end, statistics.maximum)


@cache
def levels_of(kind: str) -> np.ndarray:
    """The numbers from 0 on that a code has, as shares of its largest; float64, ascending."""
    if kind == "int8":
        return np.arange(128) / 127
    codes = np.arange(128, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    return codes[np.isfinite(codes)] / LARGEST[kind]


def _candidates(statistics: TensorStatistics) -> np.ndarray:
    """Edges of bins, at most N_CANDIDATES, the last one at the end of the last bin in use."""
    n_used = int(np.flatnonzero(statistics.counts)[-1]) + 1
    edges = np.unique(np.linspace(0, n_used, N_CANDIDATES + 1).astype(int)[1:])
    return edges * statistics.bin_width


def _levels_of_bins(centres: np.ndarray, end: float, levels: np.ndarray) -> np.ndarray:
    """Index of the level that each centre of a bin is rounded to; the last one for what is beyond the end."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, centres / end)


def _squared_errors(statistics: TensorStatistics, ends: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Sum of the squared rounding and clipping errors for each end; values are taken for the centres of their bins."""
    used = np.flatnonzero(statistics.counts)
    centres, counts = statistics.bin_centres[used], statistics.counts[used]
    return np.array([counts @ np.square(levels[_levels_of_bins(centres, end, levels)] * end - centres) for end in ends])


def squared_error(statistics: TensorStatistics, kind: str, end: float) -> float:
    """Mean over all values of the squared error of rounding and clipping, where the codes of a type end at `end`."""
    total = _squared_errors(statistics, np.array([end]), levels_of(kind))[0]
    return float(total / max(int(statistics.counts.sum()), 1))


def _divergences(statistics: TensorStatistics, ends: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of the quantized distribution from the whole one, for each end.

    The whole distribution P is that of the bins, without exact zeros, which cost nothing. The quantized one, Q, gives
    to each bin within the range an equal part of the mass that its level stands for, among the bins of the level that
    are in use, and next to nothing to a bin beyond. So clipped mass costs, always, and coarse levels cost where P is
    uneven within them. (The usual implementations put the clipped mass into the last bin of P too, or have as many
    bins as levels; either makes the loss of a range smaller than it is, and some then prefer none but the widest.)
    """
    all_counts = statistics.counts.astype(np.float64)
    all_counts[0] -= statistics.n_zeros
    used = np.flatnonzero(all_counts)
    counts = all_counts[used]
    centres, total = statistics.bin_centres[used], counts.sum()
    divergences = np.empty(len(ends))
    for i, end in enumerate(ends):
        index = _levels_of_bins(centres, end, levels)
        inside = centres <= end
        mass = np.bincount(index, counts, len(levels))
        n_bins = np.bincount(index[inside], minlength=len(levels))
        q = np.where(inside, mass[index] / np.maximum(n_bins[index], 1), SMOOTHING_COUNT)
        q /= q.sum()
        divergences[i] = (counts / total) @ np.log(counts / total / q)
    return divergences
