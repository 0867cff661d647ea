"""Tokens for seeds and options, over logits that integer arithmetic makes."""

from __future__ import annotations

from typing import Any

import numpy as np

from aurora_export.errors import UsageError
from aurora_export.sampling import Sampler, SamplingOptions, SplitMix64

N_STEPS = 48

OPTIONS: list[dict[str, Any]] = [
    {},
    {"presence_penalty": 0.3, "frequency_penalty": 0.4, "penalty_decay": 0.9},
    {"presence_penalty": -2.5, "frequency_penalty": 1e-3},
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.2, "top_p": 0.3, "seed": 2},
    {"temperature": 2.0, "top_p": 0.9, "top_k": 3, "seed": 3},
    {"temperature": 0.7, "top_k": 5, "seed": 2**64 - 1},
    {"temperature": 1.5, "top_p": 1e-9, "seed": 5},
    {"temperature": 1e-300, "seed": 6},
    {"temperature": 1e6, "top_p": 0.99, "seed": 7},
    {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "presence_penalty": 0.2, "frequency_penalty": 0.1, "seed": 42},
]
SIZES = ((1000, 125, 1000), (1000, 1, 7), (4096, 50, 997), (1, 1, 3))
"""V, and logits of i at a step: (i * 7919 + step * 104729) % 65521 % modulus / divisor."""

BAD: list[dict[str, Any]] = [
    {"temperature": -0.1},
    {"temperature": 1e-5 - 1},
    {"top_p": 0.0},
    {"top_p": 1.01},
    {"top_k": -1},
    {"presence_penalty": 100.5},
    {"frequency_penalty": -101.0},
    {"penalty_decay": 1.1},
    {"penalty_decay": -1e-16},
]


def logits_at(step: int, size: int, divisor: int, modulus: int) -> np.ndarray:
    """float32, shape (V,)."""
    return ((np.arange(size) * 7919 + step * 104729) % 65521 % modulus / divisor).astype(np.float32)


def cases() -> dict[str, Any]:
    """Draws, refusals and the generator's own numbers."""
    draws = []
    for options in OPTIONS:
        for size, divisor, modulus in SIZES:
            sampler = Sampler(SamplingOptions(**options))
            tokens = [sampler.next(logits_at(step, size, divisor, modulus)) for step in range(N_STEPS)]
            draws.append({"options": options, "size": size, "divisor": divisor, "modulus": modulus, "tokens": tokens})
    generator = SplitMix64(1234567)
    return {
        "draws": draws,
        "refused": [{"options": options, "message": _refusal(options)} for options in BAD],
        "splitmix64": [str(generator.next_uint64()) for _ in range(8)],
    }


def _refusal(options: dict[str, Any]) -> str:
    try:
        SamplingOptions(**options)
    except UsageError as error:
        return error.message
    raise AssertionError(f"{options} should be refused")
