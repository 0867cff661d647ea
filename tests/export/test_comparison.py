from __future__ import annotations

import numpy as np
import pytest

from aurora_export.errors import AccuracyError
from aurora_export.export.comparison import (
    LIMITS,
    MAX_RAISED_LIMIT,
    ROUNDING_FACTOR,
    Comparison,
    relative_error,
    require_within_limits,
    sizes_distance,
    worst_layer_error,
)

N_PATCHES, N_TOKENS, WIDTH = 12, 4, 8


def frame(token_of_patch=(0, 0, 0, 1, 1, 2, 3, 3, 3, 3, -1, -1), order=range(N_TOKENS)):
    """One frame of 4 tokens that hold 10 of 12 patches; token t is a vector of its own. order: how they stand."""
    owner = np.array(token_of_patch)
    tokens = np.random.default_rng(0).normal(size=(N_TOKENS, WIDTH)).astype(np.float32)
    sizes = np.array([(owner == token).sum() for token in range(N_TOKENS)], np.int32)
    order = list(order)
    position = {token: order.index(token) for token in range(N_TOKENS)} | {-1: -1}
    return {
        "visual_tokens": tokens[order][None],
        "token_sizes": sizes[order][None],
        "token_of_patch": np.array([[position[token] for token in owner]], np.int32),
    }


def compare(actual, expected):
    comparison = Comparison(LIMITS["fp32"])
    comparison.add_vision(actual, expected)
    return comparison.verification()


def test_relative_error():
    expected = np.array([1.0, -4.0], np.float32)
    assert relative_error(np.array([1.0, -4.0], np.float32), expected) == 0
    assert relative_error(np.array([2.0, -4.0], np.float32), expected) == 0.25
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(2), np.zeros(2)) == float("inf")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_an_infinite_error(bad):
    assert relative_error(np.array([bad, 1]), np.array([1, 1])) == float("inf")
    assert relative_error(np.array([1, 1]), np.array([bad, 1])) == float("inf")


def test_each_layer_is_measured_by_its_own_scale():
    expected = np.array([[1000.0, 0], [1.0, 0]])
    actual = expected + np.array([[0, 0.1], [0, 0.1]])
    assert worst_layer_error(actual, expected) == pytest.approx(0.1)
    assert relative_error(actual, expected) == pytest.approx(1e-4)


def test_layer_that_is_next_to_nothing_does_not_decide():
    expected = np.array([[1.0, 0], [1e-30, 0]])
    assert worst_layer_error(expected + 1e-9, expected) == pytest.approx(1e-3)


def test_equal_frames():
    verification = compare(frame(), frame())
    assert {name: measured.error for name, measured in verification.outputs.items()} == {
        "token_sizes": 0,
        "visual_tokens": 0,
        "merging": 0,
    }
    assert (verification.merge_flips, verification.n_frames) == (0, 1)


def test_frames_that_merged_alike_are_compared_by_position():
    actual = frame()
    actual["visual_tokens"] = actual["visual_tokens"] + 0.5
    assert compare(actual, frame()).outputs["visual_tokens"].error > 0.1


def test_sizes_are_compared_as_a_multiset():
    assert sizes_distance(np.array([1, 2, 5]), np.array([5, 1, 2])) == 0
    assert sizes_distance(np.array([1, 2, 5]), np.array([2, 2, 4])) == 1 / 8
    flipped = frame((0, 0, 1, 1, 1, 2, 3, 3, 3, 3, -1, -1))
    assert compare(flipped, frame()).outputs["token_sizes"].error == 0, "two tokens have each other's size"
    grown = frame((0, 0, 0, 0, 1, 2, 3, 3, 3, 3, -1, -1))
    assert compare(grown, frame()).outputs["token_sizes"].error == 1 / 10


def test_one_flip_is_counted_and_the_other_tokens_are_still_compared():
    flipped = frame((0, 0, 1, 1, 1, 2, 3, 3, 3, 3, -1, -1))
    verification = compare(flipped, frame())
    assert verification.merge_flips == 1
    assert verification.outputs["merging"].error == 2 / 4, "two tokens hold other patches"
    assert verification.outputs["visual_tokens.matched"].error == 0
    assert "visual_tokens" not in verification.outputs
    flipped["visual_tokens"][0, 3] += 5
    assert compare(flipped, frame()).outputs["visual_tokens.matched"].error > 1


def test_same_patches_at_other_positions_are_flips_and_are_matched():
    verification = compare(frame(order=[1, 0, 2, 3]), frame())
    assert verification.merge_flips == 5
    assert verification.outputs["merging"].error == 2 / 4
    assert verification.outputs["visual_tokens.matched"].error == 0
    assert verification.outputs["visual_tokens.pooled"].error < 1e-6


def test_sizes_that_contradict_the_patches_count_as_flips():
    actual = frame()
    actual["token_sizes"] = actual["token_sizes"] + np.array([[1, 0, 0, 0]], np.int32)
    assert compare(actual, frame()).outputs["merging"].error == 1 / 4


def test_wrong_order_of_all_tokens_fails():
    with pytest.raises(AccuracyError) as caught:
        require_within_limits(compare(frame(order=[3, 2, 1, 0]), frame()), hint="do something")
    assert caught.value.message == (
        "merging: error 1 against the reference is over the limit of 0.1 "
        "(share of tokens that hold other patches, or stand elsewhere, than in the reference)"
    )
    assert caught.value.exit_code == 5
    assert caught.value.hint == "do something"


def language(scale=1.0, error=0.0):
    arrays = {"logits": np.full((1, 4), scale)}
    arrays |= {f"next_{name}": np.full((2, 1, 3), scale) for name in ("att_shift", "ffn_shift", "wkv")}
    return {name: array * (1 + error) for name, array in arrays.items()}


def test_worst_of_many_runs_is_kept():
    comparison = Comparison(LIMITS["fp32"])
    for error in (1e-6, 1e-3, 1e-5):
        comparison.add_language(language(error=error), language(), n_tokens=3)
    verification = comparison.verification()
    assert verification.n_tokens == 9
    assert verification.outputs["logits"].error == pytest.approx(1e-3)
    with pytest.raises(AccuracyError, match=r"^logits: error 0\.001 against .* limit of 0\.0001"):
        require_within_limits(verification, hint="")


def test_scale_of_the_checkpoint_does_not_matter():
    comparison = Comparison(LIMITS["fp32"])
    comparison.add_language(language(1e12, 1e-7), language(1e12), n_tokens=1)
    require_within_limits(comparison.verification(), hint="")


def test_infinite_error_is_written_as_a_number_and_fails():
    comparison = Comparison(LIMITS["fp32"])
    comparison.add_language(language(error=np.nan), language(), n_tokens=1)
    assert comparison.verification().model_dump_json()
    with pytest.raises(AccuracyError, match=r"^logits: the result or the reference has values that are not finite$"):
        require_within_limits(comparison.verification(), hint="")


@pytest.mark.parametrize(("noise", "limit"), [(1e-8, 1e-4), (1e-3, ROUNDING_FACTOR * 1e-3), (1.0, MAX_RAISED_LIMIT)])
def test_limit_follows_what_the_checkpoint_makes_of_rounding(noise, limit):
    rounding, comparison = Comparison(LIMITS["fp32"]), Comparison(LIMITS["fp32"])
    rounding.add_language(language(error=noise), language(), n_tokens=1)
    comparison.add_language(language(), language(), n_tokens=1)
    comparison.allow_for(rounding)
    assert comparison.verification().outputs["logits"].limit == pytest.approx(limit)
