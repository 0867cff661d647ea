"""What is quantized, how finely, and what never is: the policy, as data.

Symmetric throughout, with zero points of zero, in the forms that TensorRT 10.3 to 11 accept: activations with one
scale for the tensor, weights with one for each output or for each block of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

from aurora_export.calibration.sites import group_of

WeightType = Literal["int8", "fp8", "int4"]
ActivationType = Literal["int8", "fp8"]

LARGEST: dict[str, float] = {"int8": 127.0, "fp8": 448.0, "int4": 7.0}
"""Type -> the largest number of its code that is used; the negative ones mirror it."""


@dataclass(frozen=True)
class Scheme:
    """How the layers of a site compute."""

    weight: WeightType
    activation: ActivationType | None = None
    """None: stays float, only the weight is quantized"""
    block: int | None = None
    """inputs of a weight that share a scale; None: all inputs of an output do"""


@dataclass(frozen=True)
class Recipe:
    """A policy for both graphs."""

    name: str
    opset: int
    """that the graphs need"""
    schemes: tuple[tuple[str, Scheme | None], ...]
    """pattern of a group, or of a site -> scheme, or None to leave it in float; the first that fits counts"""

    def scheme_of(self, site: str) -> Scheme | None:
        """How a site is quantized; None where it stays float, as what no pattern names does."""
        for pattern, scheme in self.schemes:
            if fnmatchcase(site, pattern) or fnmatchcase(group_of(site), pattern):
                return scheme
        return None

    def keeping(self, patterns: Iterable[str]) -> Recipe:
        """The same, with more groups left in float."""
        return replace(self, schemes=(*((pattern, None) for pattern in patterns), *self.schemes))


W8A8 = Scheme("int8", "int8")
W8 = Scheme("int8")
FP8 = Scheme("fp8", "fp8")

# What the recurrence is made of, and what reads it. An error in r, k and v stays in the state; what o reads, the normed
# state times a gate, is large in few places and small in most, so that 8 bits for the whole tensor lose what matters
# (more than all other layers of the language model together, on the testbed). Their activations are not rounded, and
# their weights are rounded more finely than the rest. `vision.patch` reads pixels, and is a hundredth of the work.
_RECURRENT = "language.*.att.[rkvo]"

RECIPES: dict[str, Recipe] = {
    "int8": Recipe("int8", 20, ((_RECURRENT, W8), ("vision.patch", None), ("*", W8A8))),
    "fp8": Recipe("fp8", 20, ((_RECURRENT, W8), ("vision.patch", None), ("*", FP8))),
    "int4": Recipe(
        "int4",
        21,
        (
            (_RECURRENT, W8),
            ("language.head", W8),
            ("language.*", Scheme("int4", block=128)),
            ("vision.patch", None),
            ("*", W8A8),
        ),
    ),
}
"""By the name of `--precision`."""
