"""Histograms that grow, and ranges chosen from them."""

import ml_dtypes
import numpy as np
import pytest

from aurora_export.calibration.ranges import METHODS, choose_range, levels_of
from aurora_export.calibration.recipes import LARGEST
from aurora_export.calibration.tensor_statistics import N_BINS, TensorStatistics
from aurora_export.calibration.weight_scales import round_codes
from aurora_export.errors import UsageError


def statistics_of(values: np.ndarray, n_parts: int = 1) -> TensorStatistics:
    found = TensorStatistics(values.shape[-1])
    for part in np.array_split(values.astype(np.float32), n_parts):
        found.add(part)
    return found


def squared_error(values: np.ndarray, end: float, kind: str) -> float:
    scale = end / LARGEST[kind]
    return float(np.square(round_codes(values / scale, kind).astype(np.float64) * scale - values).mean())


def test_bins_that_grew_count_what_bins_of_the_final_width_count():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(400, 8)) * np.geomspace(1e-4, 300, 400)[:, None]).astype(np.float32)
    grown = statistics_of(values, n_parts=40)
    expected, _ = np.histogram(np.abs(values), bins=N_BINS, range=(0, N_BINS * grown.bin_width))
    np.testing.assert_array_equal(grown.counts, expected)
    np.testing.assert_array_equal(grown.channel_maxima, np.abs(values).max(axis=0))
    assert grown.maximum <= N_BINS * grown.bin_width < 2.001 * grown.maximum


def test_zeros_before_and_after_other_values():
    found = TensorStatistics(2)
    found.add(np.zeros((3, 2), np.float32))
    assert (found.maximum, found.n_dead_channels, found.n_zeros) == (0, 2, 6)
    with pytest.raises(ValueError, match="nothing but zeros"):
        choose_range(found, "int8", method="mse")
    found.add(np.array([[0, 4.0]], np.float32))
    assert (found.maximum, found.n_dead_channels, found.n_zeros, found.counts.sum()) == (4, 1, 7, 8)


def test_nothing_is_counted_of_values_that_are_not_finite():
    found = TensorStatistics(2)
    with pytest.raises(ValueError, match="not finite"):
        found.add(np.array([[1, np.nan]], np.float32))
    assert found.counts.sum() == 0 and found.maximum == 0


def test_statistics_are_saved_whole():
    found = TensorStatistics(4, with_moments=True)
    found.add(np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32))
    again = TensorStatistics.from_arrays(found.arrays())
    assert again.arrays().keys() == found.arrays().keys()
    assert all(np.array_equal(again.arrays()[name], array) for name, array in found.arrays().items())


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_levels_are_those_of_the_code(kind):
    values = np.linspace(0, 1.2, 10001)
    levels = levels_of(kind)
    nearest = levels[np.abs(values[:, None] - levels).argmin(axis=1)]
    coded = round_codes(values * LARGEST[kind], kind).astype(np.float64) / LARGEST[kind]
    # Where two levels are equally near, the code takes the even one.
    assert np.abs(np.abs(values - nearest) - np.abs(values - coded)).max() < 1e-9
    assert levels[-1] == 1 and float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max) == LARGEST["fp8"]


def test_entropy_clips_a_heavy_tail_and_keeps_a_flat_distribution():
    """Where the usual implementations give the maximum."""
    rng = np.random.default_rng(0)
    heavy = rng.standard_t(3, size=(1000, 256))
    outliers = rng.normal(size=(1000, 256))
    outliers[0, 0] = 60
    flat = rng.uniform(-1, 1, size=(1000, 256))
    shares = [
        choose_range(statistics_of(values), "int8", method="entropy") / np.abs(values).max()
        for values in (heavy, outliers, flat)
    ]
    assert 0.2 < shares[0] < 0.6 and 0.06 < shares[1] < 0.15 and shares[2] > 0.99
    # It is a minimum of the divergence: of what is clipped there is little, and most of the mass is finer.
    assert np.mean(np.abs(heavy) > shares[0] * np.abs(heavy).max()) < 1e-3


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("seed", range(3))
def test_mse_is_the_best_of_all_on_the_data_itself(kind, seed):
    rng = np.random.default_rng(seed)
    values = [rng.normal, rng.laplace, lambda size: rng.standard_t(3, size)][seed](size=(500, 128))
    found = statistics_of(values)
    errors = {name: squared_error(values, choose_range(found, kind, method=name), kind) for name in METHODS}
    assert errors["mse"] <= 1.002 * min(errors.values()), errors
    assert kind == "fp8" or errors["mse"] < 0.9 * errors["max"]


def test_percentile_clips_its_share():
    values = np.random.default_rng(0).normal(size=(1000, 100))
    end = choose_range(statistics_of(values), "int8", method="percentile", percentile=99)
    assert np.mean(np.abs(values) > end) == pytest.approx(0.01, rel=0.05)
    assert choose_range(statistics_of(values), "int8", method="percentile", percentile=100) == np.float32(
        np.abs(values).max()
    )


def test_unknown_methods_and_percentiles_are_refused():
    found = statistics_of(np.ones((2, 2)))
    with pytest.raises(UsageError, match="method best: unknown"):
        choose_range(found, "int8", method="best")
    with pytest.raises(UsageError, match="percentile is 12"):
        choose_range(found, "int8", method="percentile", percentile=12)
