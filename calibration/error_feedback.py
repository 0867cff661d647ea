"""Weights rounded one input after the other, each error made good by the inputs that follow (GPTQ, arXiv 2210.17323).

What is made small is the error of the layer's output on the clips, |X W - X W'|^2, which needs the second moments
X^T X of its input and nothing else. They are kept in a file beside the scales, `<scales>.moments`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    factor = _upper_factor_of_inverse(moments)
    rest, codes = weight.astype(np.float32), np.empty((n_inputs, n_outputs), DTYPES[kind])
    for start in range(0, n_inputs, INPUTS_AT_ONCE):
        stop = min(start + INPUTS_AT_ONCE, n_inputs)
        errors = np.empty((stop - start, n_outputs), np.float32)
        for i in range(start, stop):
            scale = scales[i // block]
            codes[i] = round_codes(rest[i] / scale, kind)
            errors[i - start] = (rest[i] - codes[i].astype(np.float32) * scale) / factor[i, i]
            rest[i + 1 : stop] -= factor[i, i + 1 : stop, None] * errors[i - start]
        rest[stop:] -= factor[start:stop, stop:].T @ errors
    return codes


def _upper_factor_of_inverse(moments: np.ndarray) -> np.ndarray:
    """U with U^T U = moments^-1, upper triangular, float32; the moments damped so that the inverse exists."""
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

    def __init__(self, path: Path, scales: Scales) -> None:
        """path: of the scale file. Raises UsageError if there are none, IncompatibleError if they are of others."""
        self._path, self._scales = moments_path(path), scales
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
            return round_with_feedback(weight, scales, kind, self._moments_of(site, len(weight)))

        return rounding

    def _moments_of(self, site: str, n_inputs: int) -> np.ndarray:
        with safe_open(self._path, "numpy") as file:
            if file.get_slice(site).get_shape() != [n_inputs, n_inputs]:
                raise IntegrityError(f"{self._path}: {site}: is not of {n_inputs} inputs", hint="calibrate again")
            moments: np.ndarray = file.get_tensor(site)
        smoothing = self._scales.tensors[site].smoothing
        if smoothing is None:
            return moments
        factors = np.asarray(smoothing, np.float32)
        return moments / np.outer(factors, factors)
