"""A traced float32 graph to one with explicit quantization, by scales that were calibrated on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.moments import Moments
from aurora_export.calibration.quantize_graph import quantize
from aurora_export.calibration.recipes import RECIPES, Recipe
from aurora_export.calibration.scales_file import Scales, check_scales, graph_digest, read_scales, write_scales
from aurora_export.calibration.sites import find_sites, groups_of
from aurora_export.calibration.smoothing import fold_smoothing
from aurora_export.errors import UsageError
from aurora_export.export.graphs import Graph
from aurora_export.export.half_precision import to_half
from aurora_export.manifest import Precision, Quantization

Rest = Literal["fp32", "fp16"]

PRECISIONS: dict[str, Precision] = {"int8": "int8-qdq", "fp8": "fp8-qdq", "int4": "int4-qdq"}
"""Recipe -> precision in the manifest."""


@dataclass
class Quantizer:
    """Quantizes the graphs of one build, one after the other."""

    scales: Scales
    recipe: Recipe
    source: Path
    """of the scales"""
    rest: Rest = "fp32"
    """what is not quantized computes in this"""
    moments: Moments | None = None
    """for error feedback"""
    groups: list[str] = field(default_factory=list)
    """that were quantized so far"""
    kept: list[str] = field(default_factory=list)

    @property
    def precision(self) -> Precision:
        """As the manifest names it."""
        return PRECISIONS[self.recipe.name]

    @property
    def opset(self) -> int:
        """Of the graphs."""
        return self.recipe.opset

    @property
    def residual_divisor(self) -> int:
        """By which the residual stream of the language graph is smaller than the model's."""
        return self.scales.residual.divisor if self.rest == "fp16" else 1

    def apply(self, model: ir.Model, graph: Graph) -> None:
        """Quantize a float32 graph, as `trace` returns it, in place.

        Raises IncompatibleError if the scales are of another model, IntegrityError if they do not fit its tensors.
        """
        self.scales.require_graph(graph.name, graph_digest(model), source=str(self.source))
        sites = find_sites(model.graph)
        check_scales(self.scales, sites, graph.name, source=str(self.source))
        factors = {name: np.asarray(entry.smoothing) for name, entry in self.scales.tensors.items() if entry.smoothing}
        fold_smoothing(model, factors)
        if self.rest == "fp16":
            to_half(model, fold=self.residual_divisor if graph.name == "language" else 1)
        rounding_of = None if self.moments is None else self.moments.rounding_of
        groups = quantize(model, self.scales, self.recipe, rounding_of=rounding_of)
        self.groups += groups
        self.kept += [group for group in groups_of(sites) if group not in groups]

    def write_scales(self, path: Path) -> None:
        """Put the scales, as they were used, into a bundle."""
        write_scales(self.scales, path)

    def description(self) -> Quantization:
        """What the manifest says of it, once all graphs are done."""
        return Quantization(
            rest=self.rest,
            method=self.scales.method,
            groups=tuple(self.groups),
            kept=tuple(self.kept),
            error_feedback=self.moments is not None,
            residual_maximum=self.scales.residual.maximum,
        )


def open_quantizer(
    scales: Path, recipe: str, *, keep: tuple[str, ...] = (), rest: Rest = "fp32", error_feedback: bool = False
) -> Quantizer:
    """Read a scale file for a build.

    recipe: of RECIPES.  keep: names or patterns of groups to leave in float, beside those of the file.
    error_feedback: round weights by the second moments beside the file.
    Raises UsageError for an unknown recipe, and what reading scales and moments raises.
    """
    if recipe not in RECIPES:
        raise UsageError(f"precision {recipe} takes no scales", hint=f"one of {', '.join(RECIPES)}")
    read = read_scales(scales)
    read = read.model_copy(update={"keep": (*read.keep, *(name for name in keep if name not in read.keep))})
    moments = Moments(scales, read) if error_feedback else None
    return Quantizer(read, RECIPES[recipe], scales, rest=rest, moments=moments)
