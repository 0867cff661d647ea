"""Smoothing where it is expected to help, and only there: the expectation is held against the errors themselves."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from aurora_export.calibration.ranges import choose_range, squared_error
from aurora_export.calibration.sites import Site
from aurora_export.calibration.smoothing import smoothing_factors
from aurora_export.calibration.smoothing_choice import ALPHA, chosen_factors, expected_error, is_rounded
from aurora_export.calibration.tensor_statistics import TensorStatistics
from aurora_export.calibration.weight_scales import dequantize, quantize_weight

K, N = 64, 48


def site_of(weight: np.ndarray, op_type: str, name: str = "vision.0.qkv") -> Site:
    array = weight if op_type == "MatMul" else np.ascontiguousarray(weight.T)
    x = ir.Value(name="x")
    value = ir.Value(name="w", const_value=ir.tensor(array), shape=ir.Shape(array.shape))
    return Site(name, x, (ir.node(op_type, [x, value]),))


def statistics_of(x: np.ndarray) -> TensorStatistics:
    found = TensorStatistics(x.shape[1])
    found.add(x)
    return TensorStatistics.from_arrays(found.arrays())


def case(outliers: float) -> tuple[np.ndarray, np.ndarray]:
    """Activations with four channels as many times as large, and weights that make up for it."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(4000, K)), rng.normal(size=(K, N))
    x[:, :4] *= outliers
    weight[:4] /= outliers
    return x.astype(np.float32), weight.astype(np.float32)


def measured_error(x: np.ndarray, weight: np.ndarray, factors: np.ndarray, end: float) -> float:
    """What 8 bits on both sides do to a row of outputs."""
    step = end / 127
    rounded = np.clip(np.rint(x / factors / step), -127, 127) * step
    by_codes = dequantize(*quantize_weight((weight * factors[:, None]).astype(np.float32), "int8"))
    return float(np.square(rounded @ by_codes - x @ weight).sum(axis=1).mean())


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
@pytest.mark.parametrize("outliers", [1, 4, 60])
def test_what_is_expected_is_what_happens(outliers, op_type):
    x, weight = case(outliers)
    site, statistics = site_of(weight, op_type), statistics_of(x)
    plain_end = choose_range(statistics, "int8", method="max")
    factors = smoothing_factors(statistics.channel_maxima, np.abs(weight).max(axis=1), ALPHA)
    smooth_end = float((statistics.channel_maxima / factors).max())
    squares = statistics.channel_squares / statistics.n_rows
    for by, end, error in (
        (np.ones(K), plain_end, squared_error(statistics, "int8", plain_end)),
        (factors, smooth_end, (smooth_end / 127) ** 2 / 12),
    ):
        assert expected_error(site, by, error, squares) == pytest.approx(measured_error(x, weight, by, end), rel=0.15)


@pytest.mark.parametrize(("outliers", "is_smoothed"), [(1, False), (60, True)])
def test_only_where_it_helps(outliers, is_smoothed):
    x, weight = case(outliers)
    statistics = statistics_of(x)
    end = choose_range(statistics, "int8", method="mse")
    factors = chosen_factors(site_of(weight, "MatMul"), statistics, end)
    assert (factors is not None) == is_smoothed
    if factors is not None:
        smooth_end = float((statistics.channel_maxima / factors).max())
        assert measured_error(x, weight, factors, smooth_end) < 0.1 * measured_error(x, weight, np.ones(K), end)


def test_an_activation_that_no_recipe_rounds_is_left_alone():
    x, weight = case(60)
    assert is_rounded("language.0.ffn.v") and not is_rounded("language.0.att.o") and not is_rounded("vision.patch")
    assert chosen_factors(site_of(weight, "MatMul", "language.0.att.o"), statistics_of(x), 10.0) is None
