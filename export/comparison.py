"""How far outputs are from the reference's, and how far they may be. Needs no torch: `check` runs this anywhere.

All errors are relative, because a checkpoint may have activations of any scale. Merged tokens are compared by
position only where both sides merged alike: one similarity that is a tie up to rounding moves every token after it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import numpy as np

from aurora_export.contract import STATE_NAMES
from aurora_export.errors import AccuracyError
from aurora_export.manifest import Measured, Verification

Arrays = Mapping[str, np.ndarray]

VISION_OUTPUTS = ("visual_tokens", "token_sizes", "token_of_patch")

TENSOR_METRIC = "max abs error / max abs"
STATE_METRIC = "max abs error / max abs, of the worst layer"
FLIP_METRIC = "share of tokens that hold other patches, or stand elsewhere, than in the reference"
ALIKE_METRIC = f"{TENSOR_METRIC}, frames that merged alike"
MATCHED_METRIC = f"{TENSOR_METRIC}, tokens of the same patches in frames that merged otherwise"
SIZES_METRIC = "share of patches that must change their token to make the sizes, smallest to largest, equal"
POOLED_METRIC = f"{TENSOR_METRIC}, mean over patches in frames that merged otherwise"

QDQ_LIMITS = {
    "visual_tokens": 0.5,
    "visual_tokens.matched": 0.5,
    "visual_tokens.pooled": 0.5,
    "token_sizes": 0.5,
    "merging": 1.0,
    "embeddings": 1e-3,
    "logits": 0.5,
    **{f"next_{name}": 0.5 for name in STATE_NAMES},
}
"""Of explicit quantization."""

LIMITS: dict[str, dict[str, float]] = {
    "fp32": {
        "visual_tokens": 1e-4,
        "visual_tokens.matched": 5e-2,
        "visual_tokens.pooled": 5e-2,
        "token_sizes": 0.05,
        "merging": 0.1,
        "embeddings": 0.0,
        "logits": 1e-4,
        **{f"next_{name}": 1e-5 for name in STATE_NAMES},
    },
    "fp16": {
        "visual_tokens": 2e-2,
        "visual_tokens.matched": 0.1,
        "visual_tokens.pooled": 5e-2,
        "token_sizes": 0.1,
        "merging": 1.0,
        "embeddings": 1e-3,
        "logits": 2e-2,
        **{f"next_{name}": 2e-2 for name in STATE_NAMES},
    },
    "int8": {
        "visual_tokens": 0.1,
        "visual_tokens.matched": 0.2,
        "visual_tokens.pooled": 0.2,
        "token_sizes": 0.3,
        "merging": 1.0,
        "embeddings": 1e-3,
        "logits": 0.1,
        **{f"next_{name}": 0.2 for name in STATE_NAMES},
    },
    "int4": {
        "visual_tokens": 0.1,
        "visual_tokens.matched": 0.2,
        "visual_tokens.pooled": 0.2,
        "token_sizes": 0.3,
        "merging": 1.0,
        "embeddings": 1e-3,
        "logits": 0.8,
        **{f"next_{name}": 0.9 for name in STATE_NAMES},
    },
    "int8-qdq": QDQ_LIMITS,
    "fp8-qdq": QDQ_LIMITS,
    "int4-qdq": QDQ_LIMITS,
}
"""Precision -> what is measured -> the error at which a build fails.

Under 16 bits and less a similarity that is nearly a tie may be decided otherwise, and that is no fault (`merging`: no
limit); the tokens that hold the same patches, and the mean of all, must still agree.
"""

ROUNDING_FACTOR = 4
"""An engine rounds at every operator and the test that this multiplies only at the input; measured: 1 to 3 times."""

MAX_RAISED_LIMIT = 1e-2
"""However much a checkpoint amplifies rounding: over this, nothing would be verified any more."""

INCOMPARABLE = sys.float_info.max
"""Stands in a report for an infinite error, which JSON cannot hold."""

NEGLIGIBLE = 1e-6
"""A layer whose state is smaller than this share of the largest layer's is measured against that share."""


class Comparison:
    """Collects the worst error of each output over many runs."""

    def __init__(self, limits: Mapping[str, float]) -> None:
        """limits: name -> the error that is allowed; those of LIMITS, or what a build has recorded."""
        self._limits = dict(limits)
        self._errors: dict[str, tuple[float, str]] = {}
        self._n_frames = self._n_tokens = 0
        self._n_visual = self._n_moved = self._merge_flips = 0

    def record(self, name: str, error: float, metric: str) -> None:
        """Keep an error if it is the worst of its name. name: a key of LIMITS."""
        if name not in self._errors or error > self._errors[name][0]:
            self._errors[name] = (min(error, INCOMPARABLE), metric)

    def allow_for(self, rounding: Comparison) -> None:
        """Raise limits to what the checkpoint itself makes of rounding.

        rounding: the reference against itself, its input changed by one unit in the last place. An error of that
        size says nothing about the export.
        """
        for name, measured in rounding.verification().outputs.items():
            self._limits[name] = max(self._limits[name], min(ROUNDING_FACTOR * measured.error, MAX_RAISED_LIMIT))

    def add_vision(self, actual: Arrays, expected: Arrays) -> None:
        """Compare the outputs of the vision graph for F frames, by their names in the contract."""
        for frame in range(len(expected["visual_tokens"])):
            self._add_frame(*({name: side[name][frame] for name in VISION_OUTPUTS} for side in (actual, expected)))

    def _add_frame(self, actual: Arrays, expected: Arrays) -> None:
        n_tokens = len(expected["visual_tokens"])
        pairs = [(mine, theirs) for mine, theirs, same in _tokens_of_same_patches(actual, expected) if same]
        self._n_frames += 1
        self._n_visual += n_tokens
        moved = n_tokens - sum(mine == theirs for mine, theirs in pairs)
        self._n_moved += moved
        self.record("token_sizes", sizes_distance(actual["token_sizes"], expected["token_sizes"]), SIZES_METRIC)
        tokens, reference = actual["visual_tokens"], expected["visual_tokens"]
        if not moved:
            self.record("visual_tokens", relative_error(tokens, reference), ALIKE_METRIC)
            return
        self._merge_flips += int((actual["token_of_patch"] != expected["token_of_patch"]).sum())
        if pairs:
            mine, theirs = (list(indices) for indices in zip(*pairs, strict=True))
            self.record("visual_tokens.matched", relative_error(tokens[mine], reference[theirs]), MATCHED_METRIC)
        self.record("visual_tokens.pooled", relative_error(_pooled(actual), _pooled(expected)), POOLED_METRIC)

    def add_language(self, actual: Arrays, expected: Arrays, *, n_tokens: int) -> None:
        """Compare the outputs of the language graph, by their names in the contract. n_tokens: that were run."""
        self._n_tokens += n_tokens
        self.record("logits", relative_error(actual["logits"], expected["logits"]), TENSOR_METRIC)
        for name in (f"next_{name}" for name in STATE_NAMES):
            self.record(name, worst_layer_error(actual[name], expected[name]), STATE_METRIC)

    def verification(self) -> Verification:
        """What the manifest records."""
        errors = dict(self._errors)
        if self._n_visual:
            errors["merging"] = (self._n_moved / self._n_visual, FLIP_METRIC)
        return Verification(
            outputs={
                name: Measured(error=error, limit=self._limits[name], metric=metric)
                for name, (error, metric) in errors.items()
            },
            merge_flips=self._merge_flips,
            n_frames=self._n_frames,
            n_tokens=self._n_tokens,
        )


def require_within_limits(verification: Verification, *, hint: str) -> None:
    """Raise AccuracyError for the first output whose error is over its limit, or is no number."""
    for name, measured in verification.outputs.items():
        if measured.error == INCOMPARABLE:
            raise AccuracyError(f"{name}: the result or the reference has values that are not finite", hint=hint)
        if measured.error > measured.limit:
            raise AccuracyError(
                f"{name}: error {measured.error:.2g} against the reference is over the limit of {measured.limit:.2g} "
                f"({measured.metric})",
                hint=hint,
            )


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest absolute difference, divided by the largest absolute value expected; infinite if anything is not finite.

    Both of the same shape: the engine has checked its graph against the contract.
    """
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    return _divide(_largest(actual.astype(np.float64) - expected), _largest(expected))


def worst_layer_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Relative error of the worst layer, each by its own scale. Shapes (L, ...)."""
    if relative_error(actual, expected) == float("inf"):
        return float("inf")
    floor = NEGLIGIBLE * _largest(expected)
    return max(
        _divide(_largest(mine.astype(np.float64) - theirs), max(_largest(theirs), floor))
        for mine, theirs in zip(actual, expected, strict=True)
    )


def sizes_distance(actual: np.ndarray, expected: np.ndarray) -> float:
    """How far two multisets of token sizes are apart, 0 to 1: merging as a whole, whoever merged with whom.

    Both int, shape (K,).
    """
    moved = np.abs(np.sort(actual).astype(np.int64) - np.sort(expected)).sum()
    return _divide(float(moved) / 2, float(expected.sum()))


def _pooled(frame: Arrays) -> np.ndarray:
    """The mean over patches, which no exchange of merging partners changes much. Shape (E,)."""
    return frame["token_sizes"] @ frame["visual_tokens"] / frame["token_sizes"].sum()


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0))


def _divide(error: float, scale: float) -> float:
    return 0.0 if error == 0 else float("inf") if scale == 0 else error / scale


def _tokens_of_same_patches(actual: Arrays, expected: Arrays) -> Iterator[tuple[int, int, bool]]:
    """For each expected token that holds patches the same as one of the actual: (actual index, expected index, True).

    Tokens without a counterpart are left out; the two sizes must agree with the patches, or the third item is False.
    """
    groups = [_patches_of_tokens(side["token_of_patch"]) for side in (actual, expected)]
    for patches, theirs in groups[1].items():
        mine = groups[0].get(patches)
        if mine is not None and theirs >= 0 and mine >= 0:
            yield mine, theirs, bool(actual["token_sizes"][mine] == expected["token_sizes"][theirs] == len(patches))


def _patches_of_tokens(token_of_patch: np.ndarray) -> dict[tuple[int, ...], int]:
    """The patches that each token holds -> the token's index."""
    patches: dict[int, list[int]] = {}
    for patch, token in enumerate(token_of_patch.tolist()):
        patches.setdefault(token, []).append(patch)
    return {tuple(held): token for token, held in patches.items()}
