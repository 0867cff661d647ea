"""What each part of a model loses when only it is quantized: by layer, and by kind of layer.

A row quantizes all groups of one layer, or of one kind in all layers; the rest stays float. Rows are ordered by KL:
it sees changes long before an answer changes, so that a few hundred questions are enough for a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from aurora_export.calibration.evaluations import Evaluations
from aurora_export.calibration.gate import Loss, loss_of
from aurora_export.calibration.measures import Yardstick
from aurora_export.calibration.questions import Question
from aurora_export.calibration.variants import Variants, kind_of, layer_of

SAMPLE = 200
"""Questions that a row is measured on."""

Detail = Callable[[str], None]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    by: Literal["kind", "layer"]
    groups: tuple[str, ...]
    loss: Loss


class Evaluator:
    """Measures sets of groups, each once."""

    def __init__(
        self, variants: Variants, yardstick: Yardstick, known: Evaluations, detail: Detail | None = None
    ) -> None:
        """detail: called with what is being measured."""
        self._variants, self._yardstick, self._known, self._detail = variants, yardstick, known, detail

    @property
    def groups(self) -> tuple[str, ...]:
        """All that can be quantized."""
        return self._variants.groups

    def __call__(self, quantized: Iterable[str], name: str) -> Loss:
        """The loss when these groups are quantized. name: for who watches."""
        chosen, n = frozenset(quantized), len(self._yardstick.questions)
        if (loss := self._known.get(chosen, n)) is not None:
            return loss
        with self._variants.opened(chosen) as opened:
            outcomes = self._yardstick.measure(opened, lambda share: self._say(f"{name}: {share:.0%}"))
        loss = loss_of(outcomes, self._yardstick.outcomes)
        self._known.add(chosen, n, loss)
        return loss

    def _say(self, text: str) -> None:
        if self._detail is not None:
            self._detail(text)


def sample_of(questions: Sequence[Question], n: int) -> tuple[Question, ...]:
    """The first n questions, and those that share the last one's video."""
    if len(questions) <= n:
        return tuple(questions)
    last = questions[n - 1].video
    return tuple(q for i, q in enumerate(questions) if i < n or q.video == last)


def parts_of(groups: Sequence[str]) -> list[tuple[Literal["kind", "layer"], str, tuple[str, ...]]]:
    """By kind and by layer: name of the part, and its groups. A part that is the same both ways stands once."""
    parts: list[tuple[Literal["kind", "layer"], str, tuple[str, ...]]] = []
    for by, name_of in (("kind", kind_of), ("layer", layer_of)):
        for name in dict.fromkeys(map(name_of, groups)):
            members = tuple(group for group in groups if name_of(group) == name)
            if all(members != known for _, _, known in parts):
                parts.append((by, name, members))  # type: ignore[arg-type]
    return parts


def sensitivity_table(evaluate: Evaluator) -> list[Row]:
    """Measure every part; kinds first, then layers, each from the most sensitive to the least."""
    parts = parts_of(evaluate.groups)
    rows = [
        Row(name, by, members, evaluate(members, f"{name}, {number} of {len(parts)}"))
        for number, (by, name, members) in enumerate(parts, start=1)
    ]
    return sorted(rows, key=lambda row: (row.by != "kind", -row.loss.kl, row.name))


def ranked_groups(groups: Sequence[str], table: Sequence[Row]) -> list[str]:
    """Groups from the most sensitive to the least, as far as the table knows.

    A group is taken to lose what its kind and its layer lose, multiplied: measuring each group by itself would take
    many times as long, and what a search keeps is measured anyway.
    """
    by_kind = {group: row.loss.kl for row in table if row.by == "kind" for group in row.groups}
    by_layer = by_kind | {group: row.loss.kl for row in table if row.by == "layer" for group in row.groups}
    return sorted(groups, key=lambda group: (-by_kind[group] * by_layer[group], groups.index(group)))


def table_text(rows: Sequence[Row]) -> str:
    """The table as markdown."""
    metric = rows[0].loss.metric
    lines = [f"| quantized alone | KL, nats a token | same token | {metric}, points |", "| --- | --- | --- | --- |"]
    for row in rows:
        loss = row.loss
        name = row.name if row.by == "kind" else f"layer {row.name}"
        lines.append(
            f"| {name} | {loss.kl:.2e} ± {loss.kl_error:.0e} | {100 * loss.agreement:.2f} % "
            f"| {0.0 - loss.drop:+.2f} ± {loss.drop_error:.2f} |"
        )
    return "\n".join(lines)
