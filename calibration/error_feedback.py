"""Weights rounded one input after the other, each error made good by the inputs that follow (GPTQ, arXiv 2210.17323).

What is made small is the error of the layer's output on the clips, |X W - X W'|^2, which needs the second moments
X^T X of its input and nothing else. They are kept in a file beside the scales, `<scales>.moments`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from aurora_export.calibration.recipes import WeightType
from aurora_export.calibration.scales_file import Scales
from aurora_export.calibration.weight_scales import DTYPES, Rounding, round_codes
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError

DAMPING = 0.01
"""Added to the diagonal of the moments, as a share of its mean."""

INPUTS_AT_ONCE = 128
"""Whose errors go to the inputs behind them in one product."""


def round_with_feedback(weight: np.ndarray, scales: np.ndarray, kind: WeightType, moments: np.ndarray) -> np.ndarray:
    """Codes of a weight by scales that are known.

    weight: float32, shape (K, N).  scales: float32, shape (K / block, N).  moments: X^T X to a factor, shape (K, K).
    Returns codes in the type of DTYPES, shape (K, N). An input that was always zero is rounded to the nearest.
    """
    n_inputs, n_outputs = weight.shape
    block = n_inputs // len(scales)
    rest, codes = weight.astype(np.float32), np.empty((n_inputs, n_outputs), DTYPES[kind])

    def round_input(i: int) -> np.ndarray:
        scale = scales[i // block]
        codes[i] = round_codes(rest[i] / scale, kind)
        return codes[i].astype(np.float32) * scale

    feed_errors_on(rest, upper_factor_of_inverse(moments), round_input)
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


def moments_path(scales: Path) -> Path:
    """Where the moments of a scale file are."""
    return scales.with_name(f"{scales.name}.moments")


def save_moments(moments: Mapping[str, np.ndarray], scales: Path, *, of: Scales) -> None:
    """Write site -> X^T X / rows, float32 (K, K), beside a scale file; whole or not at all."""
    path = moments_path(scales)
    partial = path.with_name(f".{path.name}.partial")
    save_file({name: np.ascontiguousarray(array, np.float32) for name, array in moments.items()}, partial, _of(of))
    partial.replace(path)


def _of(scales: Scales) -> dict[str, str]:
    return {"graphs": json.dumps(scales.graphs, sort_keys=True), "data": scales.data.digest}


class Moments:
    """The second moments beside a scale file, read one by one."""

    def __init__(self, path: Path, scales: Scales, *, is_smoothed: bool = True) -> None:
        """path: of the scale file.  is_smoothed: whether the smoothing of the scales is folded into the weights.

        Raises UsageError if there are none, IncompatibleError if they are of others.
        """
        self._path, self._scales, self._is_smoothed = moments_path(path), scales, is_smoothed
        hint = "calibrate with --second-moments PATTERN, as language.*"
        if not self._path.is_file():
            raise UsageError(f"{self._path}: no such file; error feedback needs second moments", hint=hint)
        try:
            with safe_open(self._path, "numpy") as file:
                self.sites, metadata = frozenset(file.keys()), file.metadata()
        except SafetensorError as error:
            raise IntegrityError(f"{self._path}: no safetensors file: {error}", hint=hint) from error
        if metadata != _of(scales):
            raise IncompatibleError(f"{self._path}: is not of the calibration that {path.name} is of", hint=hint)

    def rounding_of(self, site: str, kind: WeightType) -> Rounding | None:
        """How the weights of a site are rounded; None, to the nearest, where its moments are not known."""
        if site not in self.sites:
            return None

        def rounding(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
            return round_with_feedback(weight, scales, kind, self.of(site, len(weight)))

        return rounding

    def of(self, site: str, n_inputs: int) -> np.ndarray:
        """X^T X of what the weights of a site read, to a factor: float32, shape (K, K).

        Raises IntegrityError if the file has them for another number of inputs.
        """
        with safe_open(self._path, "numpy") as file:
            if file.get_slice(site).get_shape() != [n_inputs, n_inputs]:
                raise IntegrityError(f"{self._path}: {site}: is not of {n_inputs} inputs", hint="calibrate again")
            moments: np.ndarray = file.get_tensor(site)
        smoothing = self._scales.tensors[site].smoothing if self._is_smoothed else None
        if smoothing is None:
            return moments
        factors = np.asarray(smoothing, np.float32)
        return moments / np.outer(factors, factors)
