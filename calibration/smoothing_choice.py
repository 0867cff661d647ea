"""Whether to smooth a site: only where the rounding of 8 bits is expected to do less harm to what its layers give.

The mean squared error of a row of outputs is expected to be the sum of two parts, each the error of one side carried
through the other:

    activations   error of a value * sum of the squared weights
    weights       sum over outputs of step^2 / 12 * sum over channels of the mean squared activation

Smoothing (smoothing.py) takes from the first and adds to the second. Where no channel stands out it costs more than it
gains; where some are many times as large as the others, the first part is all there is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.ranges import squared_error
from aurora_export.calibration.recipes import LARGEST, RECIPES
from aurora_export.calibration.sites import Site
from aurora_export.calibration.smoothing import smoothing_factors, weight_maxima
from aurora_export.calibration.tensor_statistics import TensorStatistics
from aurora_export.calibration.weight_scales import COLUMNS_AT_ONCE

ALPHA = 0.5
"""How much of the difference between channels goes to the weights; 0.5 is SmoothQuant's."""


def chosen_factors(site: Site, statistics: TensorStatistics, end: float) -> np.ndarray | None:
    """The factors of a site that can be smoothed, float64, shape (K); None if it is better left as it is.

    end: where the codes of int8 would end without smoothing.  Reads the weights.
    """
    if not is_rounded(site.name):
        return None
    factors = smoothing_factors(statistics.channel_maxima, weight_maxima(site), ALPHA)
    step = float((statistics.channel_maxima / factors).max()) / LARGEST["int8"]
    squares = statistics.channel_squares / max(statistics.n_rows, 1)
    plain = expected_error(site, np.ones_like(factors), squared_error(statistics, "int8", end), squares)
    smoothed = expected_error(site, factors, step**2 / 12, squares)
    return factors if smoothed < plain else None


def is_rounded(site: str) -> bool:
    """Whether any recipe rounds the activation of a site: of one that stays float smoothing spoils the weights."""
    schemes = (recipe.scheme_of(site) for recipe in RECIPES.values())
    return any(scheme is not None and scheme.activation is not None for scheme in schemes)


def expected_error(site: Site, factors: np.ndarray, error: float, squares: np.ndarray) -> float:
    """Mean squared error of a row of outputs, summed over all layers of a site.

    factors: by which channels are divided, shape (K).  error: mean squared error of a value of the divided activation.
    squares: mean square of each channel before, shape (K).
    """
    total = 0.0
    for node in site.linears:
        tensor = node.inputs[1].const_value if node.inputs[1] is not None else None
        assert tensor is not None
        array = tensor.numpy()
        weight = array if node.op_type == "MatMul" else array.T
        carried = float((squares / np.square(factors)).sum()) / 12
        for start in range(0, weight.shape[1], COLUMNS_AT_ONCE):
            # The product is a copy: a file that something still looks into cannot be released.
            part = weight[:, start : start + COLUMNS_AT_ONCE] * factors.astype(np.float32)[:, None]
            steps = np.abs(part).max(axis=0).astype(np.float64) / LARGEST["int8"]
            total += error * float(np.square(part).sum(dtype=np.float64)) + carried * float(np.square(steps).sum())
        del array, weight
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()  # or the whole file stays mapped, and counts as memory
    return total
