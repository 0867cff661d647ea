"""Weights to integers: the codes themselves, what scales are worth, and numbers at the ends."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from aurora_export.export.rounding import BITS, pack_codes, round_weight, unpack_codes
from block_linear import error

ZERO = {8: 128, 4: 8}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def rounded(weight, bits, block_size):
    """What the codes and scales stand for, shape (N, K)."""
    codes, scales = round_weight("w", weight, bits, block_size)
    blocks = (codes.astype(np.float32) - ZERO[bits]) * scales.reshape(*codes.shape[:2], 1)
    return blocks.reshape(len(weight), -1)[:, : weight.shape[1]]


def test_codes_and_scales_of_8_bits():
    weight = np.zeros((3, 20), np.float32)
    weight[0, :4] = [127, -127, 63.4, -0.6]
    weight[1, 16:] = [0.5, -0.25, 0, 0.125]
    codes, scales = round_weight("w", weight, 8, 16)
    assert codes.dtype == np.uint8
    assert codes.shape == (3, 2, 16)
    np.testing.assert_array_equal(codes[0, 0], [255, 1, 191, 127] + [128] * 12)
    np.testing.assert_array_equal(codes[1, 1], [255, 64, 128, 160] + [128] * 12)
    assert (codes[2] == 128).all()
    np.testing.assert_array_equal(scales, np.float32([1, 1, 1, 0.5 / 127, 1, 1]))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [1.0, 0.5, 3e-5])
def test_weights_that_4_bits_hold_are_kept(sign, step):
    """All sixteen levels, whichever side has the one more."""
    weight = np.float32(sign * step) * np.arange(-8, 8, dtype=np.float32)[None]
    codes, scales = round_weight("w", weight, 4, 16)
    np.testing.assert_array_equal(codes[0, 0], np.arange(16))
    np.testing.assert_allclose(scales, sign * step, rtol=1e-6)


def test_4_bits_are_better_than_the_scale_of_the_largest_weight():
    weight = random(64, 640)
    weight[:, ::97] *= 3
    for block_size, share in ((32, 0.86), (128, 0.84)):
        blocks = weight.reshape(64, -1, block_size)
        steps = np.abs(blocks).max(-1, keepdims=True) / 7
        plain = np.square(np.rint(blocks / steps) * steps - blocks).sum()
        assert np.square(rounded(weight, 4, block_size) - weight).sum() < share * plain


def test_no_other_scale_of_a_block_is_much_better():
    """Against every scale of a fine grid, each with its own best codes."""
    weight = random(40, 64)
    found = np.square(rounded(weight, 4, 64) - weight).sum(-1)
    grid = np.abs(weight).max(-1)[:, None] * np.linspace(0.05, 0.2, 400)[None] * np.array([1, -1])[:, None, None]
    rows = weight[:, None]
    codes = np.clip(np.rint(rows / grid[..., None]), -8, 7)
    best = np.square(codes * grid[..., None] - rows).sum(-1).min((0, 2))
    assert (found < 1.1 * best).all()
    assert found.sum() < 1.01 * best.sum()


@pytest.mark.parametrize("bits", BITS)
def test_codes_are_packed_as_matmulnbits_reads_them(bits):
    codes = np.random.default_rng(0).integers(0, 2**bits, (3, 2, 16), dtype=np.uint8)
    stored = pack_codes(codes, bits)
    assert stored.shape == (3, 2, 2 * bits)
    np.testing.assert_array_equal(unpack_codes(stored, bits), codes)
    if bits == 4:
        assert stored[1, 1, 3] == codes[1, 1, 6] + 16 * codes[1, 1, 7]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("peak", [1e-45, 1e-40, 1e-37, 1.4e-36, 1e-30, 3e38])
def test_tiny_and_huge_weights_give_numbers(peak, bits):
    weight = np.float32(peak) * np.linspace(-1, 1, 32, dtype=np.float32)[None]
    codes, scales = round_weight("w", weight, bits, 32)
    assert np.isfinite(scales).all()
    assert (np.abs(scales) >= np.finfo(np.float32).tiny).all()
    largest = {8: 0.0040, 4: 0.13}[bits]
    assert error((codes[0].astype(np.float32) - ZERO[bits]) * scales[0], weight) <= (1 if peak < 1.5e-36 else largest)
    assert (codes >= 1).all() or bits == 4


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(wrong, bits):
    weight = random(2000, 100)
    weight[1500, 99] = wrong
    with pytest.raises(
        ValueError, match=rf"^a weight in rows \d+ to \d+ of w is not finite: it has no {bits}-bit code"
    ):
        round_weight("w", weight, bits, 16)


@pytest.mark.parametrize("bits", BITS)
def test_codes_do_not_depend_on_the_chunks(monkeypatch, bits):
    weight = random(1000, 300)
    weight[7], weight[8, 64:128] = 0, 0
    codes, scales = round_weight("w", weight, bits, 64)
    monkeypatch.setattr("aurora_export.export.rounding.CHUNK", 4000)
    again = round_weight("w", np.asfortranarray(weight), bits, 64)
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_allclose(again[1], scales, rtol=1e-6)
    assert (codes[:, -1, 300 - 256 :] == ZERO[bits]).all()
    assert (codes[7] == ZERO[bits]).all()
    assert (scales.reshape(1000, -1)[7] == 1).all()


def test_memory_is_that_of_the_result():
    weight = random(4096, 1024)
    tracemalloc.start()
    codes, scales = round_weight("w", weight, 8, 128)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < codes.nbytes + scales.nbytes + (2 << 20) < 0.5 * weight.nbytes
