"""A float32 bundle, scales, a recipe and questions on one bench: what the table and the search need, opened once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from aurora_export.calibration.evaluations import Evaluations
from aurora_export.calibration.measures import Yardstick, remembering
from aurora_export.calibration.moments import Moments
from aurora_export.calibration.questions import Questions, read_questions
from aurora_export.calibration.recipes import RECIPES
from aurora_export.calibration.scales_file import check_scales, graph_digest, read_scales
from aurora_export.calibration.search import Found, search
from aurora_export.calibration.sensitivity import (
    Detail,
    Evaluator,
    Row,
    ranked_groups,
    sample_of,
    sensitivity_table,
)
from aurora_export.calibration.sites import find_sites
from aurora_export.calibration.variants import GRAPHS, Variants
from aurora_export.manifest import resolve
from aurora_export.runtime.opened_bundle import OpenedBundle, open_bundle


@dataclass
class Workbench:
    """See the module."""

    variants: Variants
    questions: Questions
    known: Evaluations
    _yardsticks: dict[int, Yardstick] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        bundle: Path,
        scales: Path,
        questions: Path,
        precision: str,
        *,
        keep: Sequence[str] = (),
        error_feedback: bool = False,
        resume: Path | None = None,
        threads: int | None = None,
    ) -> Workbench:
        """Open everything, and check that the scales are of this bundle.

        keep: groups to leave in float beside those of the scales.  error_feedback: round weights by second moments.
        resume: a file of evaluations to go on from.
        Raises what `read_scales`, `read_questions`, `open_bundle`, `Variants.of` and `Evaluations` raise.
        """
        asked, read = read_questions(questions), read_scales(scales)
        read = read.model_copy(update={"keep": tuple(dict.fromkeys((*read.keep, *keep)))})
        opened = open_bundle(bundle, threads=threads)
        for graph in GRAPHS:
            model = ir.load(resolve(bundle, opened.manifest, graph))
            read.require_graph(graph, graph_digest(model), source=str(scales))
            check_scales(read, find_sites(model.graph), graph, source=str(scales))
        moments = Moments(scales, read) if error_feedback else None
        variants = Variants.of(
            remembering(opened),
            read,
            RECIPES[precision],
            threads=threads,
            rounding_of=None if moments is None else moments.rounding_of,
        )
        identity = {
            "model": opened.fingerprint,
            "scales": hashlib.sha256(read.model_dump_json(exclude={"data"}).encode()).hexdigest(),
            "recipe": hashlib.sha256(repr((variants.recipe, error_feedback)).encode()).hexdigest(),
            "questions": asked.digest,
        }
        return cls(variants, asked, Evaluations(resume, identity))

    @property
    def opened(self) -> OpenedBundle:
        """The float32 bundle."""
        return self.variants.yardstick

    def yardstick(self, sample: int | None, detail: Detail) -> Yardstick:
        """The float32 answers to the first questions, or to all."""
        chosen = self.questions.questions if sample is None else sample_of(self.questions.questions, sample)
        if len(chosen) not in self._yardsticks:
            self._yardsticks[len(chosen)] = Yardstick.of(
                self.opened, chosen, progress=lambda share: detail(f"answers of the float model: {share:.0%}")
            )
        return self._yardsticks[len(chosen)]

    def table(self, sample: int, detail: Detail) -> list[Row]:
        """The sensitivity table over the first `sample` questions."""
        return sensitivity_table(Evaluator(self.variants, self.yardstick(sample, detail), self.known, detail))

    def search(self, table: Sequence[Row], max_drop: float, detail: Detail) -> Found:
        """What must be kept for the gate to hold over all questions. Raises AccuracyError if nothing helps."""
        evaluate = Evaluator(self.variants, self.yardstick(None, detail), self.known, detail)
        return search(ranked_groups(self.variants.groups, table), evaluate, max_drop=max_drop)
