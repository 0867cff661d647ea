"""Sampling: the distribution that is drawn from, equal to the `rwkv` package's, and the same draw everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aurora_export.errors import EXIT_INTEGRITY, IntegrityError, UsageError
from aurora_export.sampling import Sampler, SamplingOptions, SplitMix64


def random_logits(n_tokens: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n_tokens) * 3).astype(np.float32)


def distribution(logits: np.ndarray, n_points: int = 20_000, **options: Any) -> np.ndarray:
    """Shares with which each token is drawn, by sweeping the uniform number over [0, 1): exact to 1 / n_points."""
    sampler = Sampler(SamplingOptions(**options))
    counts = np.zeros(len(logits))
    for point in range(n_points):
        sampler._random.next_float = lambda point=point: (point + 0.5) / n_points
        counts[sampler.next(logits)] += 1
    return counts / n_points


def test_default_is_greedy_and_ties_go_to_the_lowest_id() -> None:
    assert Sampler().next(np.array([1, 3, 2, 3], np.float32)) == 1
    assert Sampler().next(np.array([-np.inf, -5, -np.inf, -5], np.float32)) == 1
    logits = random_logits(1000, 0)
    assert [Sampler().next(logits) for _ in range(3)] == [int(logits.argmax())] * 3


def test_logits_are_left_unchanged() -> None:
    logits = random_logits(50, 0)
    before = logits.copy()
    sampler = Sampler(SamplingOptions(temperature=1, top_p=0.5, presence_penalty=1, frequency_penalty=1))
    for _ in range(5):
        sampler.next(logits)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.85},
        {"temperature": 0.2, "top_p": 0.3},
        {"temperature": 2.0, "top_p": 0.9, "top_k": 3},
        {"temperature": 0.7, "top_k": 5},
        {"temperature": 1.5, "top_p": 1e-9},
        {"temperature": 1.0, "top_k": 1},
    ],
)
def test_distribution_equals_the_rwkv_package(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    oracle = pytest.importorskip("rwkv.utils", reason="the rwkv package, the oracle, is not installed")
    drawn_from = []
    monkeypatch.setattr(np.random, "choice", lambda a, p: drawn_from.append(p) or 0)
    for seed in range(3):
        logits = random_logits(20, seed)
        top_p = options.get("top_p", 1.0)
        if top_p == 1:
            # Float32 sums need not reach 1, and that package then keeps only the most likely token.
            top_p = 0.9999
        oracle.PIPELINE.sample_logits(
            None, torch.from_numpy(logits.copy()), options["temperature"], top_p, options.get("top_k", 0)
        )
        shares = distribution(logits, 2000, **options)
        np.testing.assert_allclose(shares, drawn_from.pop(), atol=1e-3)


def test_top_p_keeps_all_that_equal_the_last() -> None:
    logits = np.log(np.array([0.4, 0.15, 0.15, 0.15, 0.15], np.float32))
    np.testing.assert_allclose(distribution(logits, 2000, temperature=1, top_p=0.5), np.exp(logits), atol=1e-3)
    assert distribution(logits, 2000, temperature=1, top_p=0.39).tolist() == [1, 0, 0, 0, 0]


def test_top_k_keeps_exactly_k_and_of_equals_the_lowest_ids() -> None:
    logits = np.array([0, 1, 0, 1, 0, 1, 2], np.float32)
    assert np.flatnonzero(distribution(logits, 2000, temperature=1, top_k=3)).tolist() == [1, 3, 6]
    assert np.flatnonzero(distribution(logits, 2000, temperature=1, top_k=5)).tolist() == [0, 1, 3, 5, 6]
    assert np.flatnonzero(distribution(logits, 2000, temperature=1, top_k=100)).tolist() == list(range(7))


def test_a_low_temperature_is_greedy_and_a_high_one_uniform() -> None:
    logits = random_logits(65536, 1)  # all probabilities are far below 1: powers of them would underflow
    for temperature in (1e-3, 1e-300):
        sampler = Sampler(SamplingOptions(temperature=temperature))
        assert {sampler.next(logits) for _ in range(5)} == {int(logits.argmax())}
    np.testing.assert_allclose(distribution(random_logits(5, 1), 1000, temperature=1e6), 0.2, atol=2e-3)


def test_forbidden_tokens_are_never_drawn() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 0, -np.inf], np.float32)
    assert distribution(logits, 1000, temperature=1).tolist() == [0, 0.5, 0, 0.5, 0]
    sampler = Sampler(SamplingOptions(temperature=1))
    for edge in (0.0, 1 - 2**-53):
        sampler._random.next_float = lambda edge=edge: edge
        assert sampler.next(logits) in (1, 3)


def test_penalties_follow_the_rwkv_package() -> None:
    """Greedy over constant logits; the expected tokens come from that package's loop, written out here."""
    logits = np.array([3.0, 2.5, 2.0, 1.9, -4.0], np.float32)
    presence, frequency, decay = 0.3, 0.4, 0.9
    counts: dict[int, float] = {}
    expected = []
    for _ in range(40):
        penalised = logits.astype(np.float64)
        for token, count in counts.items():
            penalised[token] -= presence + count * frequency
        chosen = int(penalised.argmax())
        for token in counts:
            counts[token] *= decay
        counts[chosen] = counts.get(chosen, 0) + 1
        expected.append(chosen)
    sampler = Sampler(SamplingOptions(presence_penalty=presence, frequency_penalty=frequency, penalty_decay=decay))
    assert [sampler.next(logits) for _ in range(40)] == expected
    assert len(set(expected)) == 4


def test_generator_equals_the_published_sequence() -> None:
    """From the reference program's output for seed 1234567, and the first numbers of seed 0."""
    generator = SplitMix64(1234567)
    assert [generator.next_uint64() for _ in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    generator = SplitMix64(0)
    assert [generator.next_uint64() for _ in range(2)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert SplitMix64(0).next_float() == (0xE220A8397B1DCDAF >> 11) / 2**53


def test_a_seed_gives_the_recorded_tokens() -> None:
    """What the C++ side must reproduce too; the logits are made by integer arithmetic only."""
    sampler = Sampler(SamplingOptions(temperature=0.8, top_p=0.9, top_k=40, presence_penalty=0.2, seed=42))
    tokens = []
    for step in range(16):
        logits = ((np.arange(1000) * 7919 + step * 104729) % 65521 % 1000 / 125).astype(np.float32)
        tokens.append(sampler.next(logits))
    assert tokens == [862, 230, 376, 235, 171, 874, 200, 741, 384, 620, 299, 475, 585, 444, 775, 215]


def test_seeds_differ_and_repeat() -> None:
    logits = random_logits(100, 3)

    def draws(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1, seed=seed))
        return [sampler.next(logits) for _ in range(20)]

    assert draws(1) == draws(1)
    assert draws(1) != draws(2)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0, np.nan, 1], "1 NaN and 0 infinite values among 3"),
        ([np.inf, np.nan, np.inf], "1 NaN and 2 infinite values among 3"),
        ([0, np.inf], "0 NaN and 1 infinite values among 2"),
        ([-np.inf, -np.inf], "only -inf among 2"),
    ],
)
@pytest.mark.parametrize("temperature", [0, 1])
def test_broken_logits_are_refused(values: list, found: str, temperature: float) -> None:
    with pytest.raises(IntegrityError) as caught:
        Sampler(SamplingOptions(temperature=temperature)).next(np.array(values, np.float32))
    assert caught.value.message == f"the language model returned logits with {found}"
    assert caught.value.exit_code == EXIT_INTEGRITY


@pytest.mark.parametrize("shape", [(0,), (1, 5), ()])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"^logits must have shape \(V,\), not "):
        Sampler().next(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("temperature", -0.1, "a number 0 or more"),
        ("temperature", float("nan"), "a number 0 or more"),
        ("temperature", float("inf"), "a number 0 or more"),
        ("temperature", "1", "a number 0 or more"),
        ("temperature", True, "a number 0 or more"),
        ("top_p", 0, "a number over 0 and at most 1"),
        ("top_p", 1.01, "a number over 0 and at most 1"),
        ("top_k", -1, "a whole number 0 or more"),
        ("top_k", 2.0, "a whole number 0 or more"),
        ("presence_penalty", float("nan"), "a number from -100 to 100"),
        ("frequency_penalty", 101, "a number from -100 to 100"),
        ("penalty_decay", 1.1, "a number from 0 to 1"),
        ("seed", -1, "a whole number from 0 to 2^64 - 1"),
        ("seed", 2**64, "a whole number from 0 to 2^64 - 1"),
    ],
)
def test_a_bad_option_is_refused(name: str, value: Any, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingOptions(**{name: value})
    assert caught.value.message == f"{name} is {value!r}; it must be {expected}"
