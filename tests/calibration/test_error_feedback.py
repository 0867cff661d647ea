"""Rounding that makes good what it did before."""

import numpy as np
import pytest

from aurora_export.calibration.error_feedback import round_with_feedback
from aurora_export.calibration.weight_scales import dequantize, nearest, quantize_weight

RNG = np.random.default_rng(0)


def correlated(n_rows: int = 2000, n_inputs: int = 192) -> np.ndarray:
    """Inputs that say much about each other, as activations do."""
    return (
        RNG.normal(size=(n_rows, 24)) @ RNG.normal(size=(24, n_inputs)) + 0.1 * RNG.normal(size=(n_rows, n_inputs))
    ).astype(np.float32)


@pytest.mark.parametrize(("kind", "block", "gain"), [("int4", 64, 0.3), ("int8", None, 0.3), ("int4", None, 0.3)])
def test_output_error_is_a_fraction_of_that_of_rounding_to_the_nearest(kind, block, gain):
    x, weight = correlated(), RNG.normal(size=(192, 40)).astype(np.float32)
    _, scales = quantize_weight(weight, kind, block)
    codes = [round_with_feedback(weight, scales, kind, x.T @ x), nearest(kind)(weight, scales)]
    errors = [np.square(x @ dequantize(code, scales) - x @ weight).sum() for code in codes]
    assert codes[0].dtype == codes[1].dtype
    assert errors[0] < gain * errors[1]


def test_weights_that_are_codes_already_stay():
    scales = np.full((1, 5), 0.5, np.float32)
    weight = RNG.integers(-127, 128, (64, 5)).astype(np.float32) * 0.5
    x = correlated(n_inputs=64)
    np.testing.assert_array_equal(round_with_feedback(weight, scales, "int8", x.T @ x), weight / 0.5)


def test_input_that_was_always_zero_is_rounded_to_the_nearest():
    x, weight = correlated(n_inputs=32), RNG.normal(size=(32, 5)).astype(np.float32)
    x[:, 7] = 0
    _, scales = quantize_weight(weight, "int4")
    codes = round_with_feedback(weight, scales, "int4", x.T @ x)
    np.testing.assert_array_equal(codes[7].astype(int), nearest("int4")(weight, scales)[7].astype(int))
