"""Weights rounded one input after the other, each error made good by the inputs that follow (GPTQ, arXiv 2210.17323).

What is made small is the error of the layer's output on the clips, |X W - X W'|^2, which needs the second moments
X^T X of its input and nothing else. They are in a file beside the scales (moments.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aurora_export.calibration.recipes import WeightType
from aurora_export.calibration.weight_scales import DTYPES, round_codes

DAMPING = 0.01
"""Added to the diagonal of the moments, as a share of its mean."""

INPUTS_AT_ONCE = 128
"""Whose errors go to the inputs behind them in one product."""


def round_with_feedback(weight: np.ndarray, scales: np.ndarray, kind: WeightType, moments: np.ndarray) -> np.ndarray:
    """Codes of a weight by scales that are known.

    weight: float32, shape (K, N).  scales: float32, shape (K / block, N).  moments: X^T X to a factor, shape (K, K).
    Returns codes in the type of DTYPES, shape (K, N). An input that was always zero is rounded to the nearest.
    """
    return round_with_factor(weight, scales, kind, upper_factor_of_inverse(moments))


def round_with_factor(weight: np.ndarray, scales: np.ndarray, kind: WeightType, factor: np.ndarray) -> np.ndarray:
    """As `round_with_feedback`, with the `upper_factor_of_inverse` of the moments."""
    n_inputs, n_outputs = weight.shape
    block = n_inputs // len(scales)
    rest, codes = weight.astype(np.float32), np.empty((n_inputs, n_outputs), DTYPES[kind])

    def round_input(i: int) -> np.ndarray:
        scale = scales[i // block]
        codes[i] = round_codes(rest[i] / scale, kind)
        return codes[i].astype(np.float32) * scale

    feed_errors_on(rest, factor, round_input)
    return codes


def feed_errors_on(
    rest: np.ndarray,
    factor: np.ndarray,
    round_input: Callable[[int], np.ndarray],
    *,
    inputs_at_once: int = INPUTS_AT_ONCE,
) -> None:
    """Round the inputs of a weight in turn; what follows makes each error good (equations 2 and 3 of the paper).

    rest: the weight, float32, shape (K, N); changed: when an input is rounded, its row holds what is to be rounded,
    and so do the rows behind it up to the next multiple of `inputs_at_once`.  factor: of `upper_factor_of_inverse`.
    round_input: called with the number of each input in turn; returns what its codes stand for, float32, shape (N,).
    """
    n_inputs, n_outputs = rest.shape
    for start in range(0, n_inputs, inputs_at_once):
        stop = min(start + inputs_at_once, n_inputs)
        errors = np.empty((stop - start, n_outputs), np.float32)
        for i in range(start, stop):
            errors[i - start] = (rest[i] - round_input(i)) / factor[i, i]
            rest[i + 1 : stop] -= factor[i, i + 1 : stop, None] * errors[i - start]
        rest[stop:] -= factor[start:stop, stop:].T @ errors


def upper_factor_of_inverse(moments: np.ndarray) -> np.ndarray:
    """U with U^T U = moments^-1, upper triangular, float32; the moments damped so that the inverse exists.

    moments: X^T X to a factor, shape (K, K).
    """
    damped = moments.astype(np.float64)
    diagonal = np.diag(damped).copy()
    mean = diagonal.mean() or 1.0
    np.fill_diagonal(damped, np.where(diagonal == 0, mean, diagonal) + DAMPING * mean)
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
