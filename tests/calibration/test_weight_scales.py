"""Weights as codes and scales."""

import numpy as np
import pytest

from aurora_export.calibration.weight_scales import block_for, dequantize, nearest, quantize_weight, scales_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("kind", "share"), [("int8", 0.5 / 127), ("int4", 0.5 / 7), ("fp8", 1 / 16)])
@pytest.mark.parametrize("block", [None, 32])
def test_each_weight_is_within_half_a_step(kind, share, block):
    weight = RNG.normal(size=(64, 3000)).astype(np.float32)
    codes, scales = quantize_weight(weight, kind, block)
    assert codes.shape == weight.shape and scales.shape == (64 // (block or 64), 3000)
    peaks = np.abs(weight.reshape(len(scales), -1, 3000)).max(axis=1)
    error = np.abs(dequantize(codes, scales) - weight).reshape(len(scales), -1, 3000).max(axis=1)
    # The search of int4 may clip the largest weights by up to 30 %.
    assert (error <= peaks * (share + (0.3 if kind == "int4" else 1e-6))).all()


def test_search_makes_the_error_of_four_bits_smaller_and_never_larger():
    weight = RNG.standard_t(4, size=(128, 50)).astype(np.float32)
    plain = np.abs(weight).max(axis=0, keepdims=True) / np.float32(7)
    errors = [
        np.square(dequantize(nearest("int4")(weight, scales), scales) - weight).sum(axis=0)
        for scales in (scales_of(weight, "int4", 128), plain)
    ]
    assert (errors[0] <= errors[1]).all() and errors[0].sum() < 0.85 * errors[1].sum()


def test_columns_of_zeros_and_of_tiny_weights():
    weight = np.stack([np.zeros(4), np.full(4, 1e-40), np.ones(4)], axis=1).astype(np.float32)
    codes, scales = quantize_weight(weight, "int8")
    assert scales.tolist() == [[1, 1, np.float32(1 / 127)]]
    assert codes[:, :2].astype(int).any() == 0 and (codes[:, 2] == 127).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_have_no_code(bad):
    with pytest.raises(ValueError, match="not finite"):
        quantize_weight(np.array([[1], [bad]], np.float32), "int8")


def test_blocks_divide_the_inputs():
    assert [block_for(n, 128) for n in (448, 64, 2048, 7168)] == [64, 64, 128, 128]
    assert block_for(448, None) == 448
    with pytest.raises(ValueError, match="does not divide"):
        quantize_weight(np.ones((10, 1), np.float32), "int8", 4)
