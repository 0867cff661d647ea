"""A model with any set of its groups quantized, made from the float graphs of a bundle: nothing is exported again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from aurora_export.calibration.quantize_graph import RoundingOf, quantize
from aurora_export.calibration.recipes import Recipe
from aurora_export.calibration.scales_file import Scales
from aurora_export.calibration.sites import find_sites, groups_of
from aurora_export.calibration.smoothing import fold_smoothing
from aurora_export.errors import UsageError
from aurora_export.manifest import resolve
from aurora_export.runtime.engine import Engine
from aurora_export.runtime.engine_onnx import EMULATED_PRECISIONS, OnnxEngine
from aurora_export.runtime.opened_bundle import OpenedBundle

GRAPHS = ("vision", "language")


@dataclass(frozen=True)
class Variants:
    """What can be made of one float32 bundle with one set of scales and one recipe."""

    yardstick: OpenedBundle
    """the float32 bundle; its engines serve where no group of a graph is quantized"""
    scales: Scales
    recipe: Recipe
    groups: tuple[str, ...]
    """that the recipe quantizes, in the order of the graphs"""
    graph_of: dict[str, str]
    """group -> vision or language"""
    threads: int | None = None
    rounding_of: RoundingOf | None = None
    """another rounding of weights than to the nearest"""

    @classmethod
    def of(
        cls,
        yardstick: OpenedBundle,
        scales: Scales,
        recipe: Recipe,
        *,
        threads: int | None = None,
        rounding_of: RoundingOf | None = None,
    ) -> Variants:
        """Find the groups. Raises UsageError for a bundle that is not float32, or with nothing to quantize."""
        if yardstick.manifest.precision != "fp32":
            raise UsageError(
                f"{yardstick.path}: is {yardstick.manifest.precision}; quantized graphs are made from fp32",
                hint="aurora-export build CHECKPOINT --out BUNDLE",
            )
        graph_of: dict[str, str] = {}
        for graph in GRAPHS:
            sites = find_sites(ir.load(resolve(yardstick.path, yardstick.manifest, graph)).graph)
            kept = recipe.keeping(scales.keep)
            named = [name for name in sites if kept.scheme_of(name) is not None]
            graph_of |= dict.fromkeys(groups_of(named), graph)
        if not graph_of:
            raise UsageError(
                f"{recipe.name}: leaves every group in float", hint="`keep` in the scales names too much: shorten it"
            )
        return cls(yardstick, scales, recipe, tuple(graph_of), graph_of, threads, rounding_of)

    @contextmanager
    def opened(self, quantized: frozenset[str], *, folder: Path | None = None) -> Iterator[OpenedBundle]:
        """The model with these groups quantized and all others in float; its files are gone afterwards.

        folder: where they are meanwhile, if not among the temporary files of the machine.
        """
        folder = Path(tempfile.mkdtemp(prefix="aurora-variant-", dir=folder))
        try:
            engines: dict[str, Engine] = {graph: getattr(self.yardstick, graph) for graph in GRAPHS}
            for graph in GRAPHS:
                if only := {group for group in quantized if self.graph_of[group] == graph}:
                    source = resolve(self.yardstick.path, self.yardstick.manifest, graph)
                    self._write(source, folder / f"{graph}.onnx", only)
                    spec = self.yardstick.manifest.contract[graph]
                    engines[graph] = OnnxEngine(
                        folder / f"{graph}.onnx",
                        spec,
                        threads=self.threads,
                        emulated=f"{self.recipe.name}-qdq" in EMULATED_PRECISIONS,
                    )
            yield replace(self.yardstick, vision=engines["vision"], language=engines["language"])
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, source: Path, target: Path, only: set[str]) -> None:
        """A graph with some groups quantized; all smoothing is folded, which is exact in float."""
        model = ir.load(source)
        smoothing = {name: entry.smoothing for name, entry in self.scales.tensors.items()}
        fold_smoothing(model, {name: np.asarray(f, np.float32) for name, f in smoothing.items() if f is not None})
        quantize(model, self.scales, self.recipe, only=only, rounding_of=self.rounding_of)
        ir.save(model, target, external_data=f"{target.name}.data")


def layer_of(group: str) -> str:
    """`vision.3` of `vision.3.qkv`; what belongs to no block is a layer of its own."""
    parts = group.split(".")
    return ".".join(parts[:2])


def kind_of(group: str) -> str:
    """`vision.qkv` of `vision.3.qkv`: the same in every block."""
    return ".".join(part for part in group.split(".") if not part.isdigit())
