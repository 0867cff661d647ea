"""Rounding that makes good what it did before."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from aurora_export.calibration.error_feedback import Moments, moments_path, round_with_feedback, save_moments
from aurora_export.calibration.scales_file import Scales
from aurora_export.calibration.weight_scales import dequantize, nearest, quantize_weight
from aurora_export.errors import IncompatibleError, IntegrityError, UsageError

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


def test_moments_belong_to_a_calibration(tmp_path, scales: Scales):
    path = tmp_path / "scales.json"
    with pytest.raises(UsageError, match=r"scales.json.moments: no such file"):
        Moments(path, scales)
    save_moments({"language.head": np.eye(4, dtype=np.float32)}, path, of=scales)
    assert Moments(path, scales).sites == {"language.head"}
    assert Moments(path, scales).rounding_of("language.0.att.k", "int8") is None
    other = scales.model_copy(update={"data": scales.data.model_copy(update={"digest": "1" * 64})})
    with pytest.raises(IncompatibleError, match="is not of the calibration"):
        Moments(path, other)
    rounding = Moments(path, scales).rounding_of("language.head", "int8")
    assert rounding is not None
    with pytest.raises(IntegrityError, match="is not of 5 inputs"):
        rounding(np.ones((5, 2), np.float32), np.ones((1, 2), np.float32))
    moments_path(path).write_bytes(b"nonsense")
    with pytest.raises(IntegrityError, match="no safetensors file"):
        Moments(path, scales)


def test_moments_of_smoothed_channels_are_those_of_what_the_weights_read(tmp_path, scales: Scales):
    factors = (1.0, 2.0, 4.0, 8.0)
    smoothed = scales.model_copy(
        update={"tensors": {"language.head": scales.tensors["language.head"].model_copy(update={"smoothing": factors})}}
    )
    x, weight = correlated(n_inputs=4), RNG.normal(size=(4, 3)).astype(np.float32)
    save_moments({"language.head": x.T @ x}, tmp_path / "s.json", of=smoothed)
    rounding = Moments(tmp_path / "s.json", smoothed).rounding_of("language.head", "int4")
    assert rounding is not None
    _, steps = quantize_weight(weight, "int4")
    y = x / np.array(factors, np.float32)
    expected = round_with_feedback(weight, steps, "int4", y.T @ y)
    np.testing.assert_array_equal(rounding(weight, steps).astype(int), expected.astype(int))
    save_file({"x": x}, tmp_path / "other.json.moments")
    with pytest.raises(IncompatibleError):
        Moments(tmp_path / "other.json", smoothed)
