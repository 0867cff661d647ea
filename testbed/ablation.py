"""The paper's two ablations on the testbed: token order, and kept ratio. One bundle is built and asked per setting.

    python testbed/ablation.py --questions 2000

The model is the shipped one, trained on ascending order at ratios 0.1, 0.2 and 0.5; nothing is trained again, so
this shows what a change at run time costs, not what another training would have reached. All settings are asked the
same questions about the same scenes, so differences are paired: each is printed with the standard error of the
difference, and one under two standard errors is called no measurable effect.

Every setting is asked twice: about scenes like those of the training, on which the model makes hardly a mistake, so
that only a large loss can show; and about the same scenes with ten times the noise, where there is room for a small
one.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluate import Outcome, accuracy, run
from scenes import KINDS

HERE = Path(__file__).resolve().parent
_PROGRAM = Path(sys.executable).with_name("aurora-export")
_MEASURABLE = 2.0


@dataclass(frozen=True)
class Setting:
    """One row: its name and what `build --set` is given."""

    name: str
    overrides: tuple[str, ...] = ()


# "No sorting" is what the paper's row "random" means (its section on the order of tokens).
ORDERS = (
    Setting("ascending (as trained)"),
    Setting("descending", ("merge.order=descending",)),
    Setting("none (the paper's random)", ("merge.sort=none", "merge.order=none")),
)
NOISES = (None, 60.0)
"""Grain of the scenes: that of the training (up to 6), and one that is far beyond it."""
RATIOS = tuple(Setting(f"{ratio:g}", (f"merge.kept_ratio={ratio}",)) for ratio in (0.1, 0.2, 0.3, 0.5, 0.7, 1.0))


def measure(setting: Setting, checkpoint: Path, *, n_questions: int) -> tuple[list[list[Outcome]], int]:
    """Build the bundle of a setting, ask at every noise; returns the outcomes of each and the tokens per frame."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "setting.aurora"
        options = [part for override in setting.overrides for part in ("--set", override)]
        subprocess.run(
            [_PROGRAM, "build", checkpoint, "--out", bundle, *options], check=True, stdout=subprocess.DEVNULL
        )
        info = subprocess.run([_PROGRAM, "info", bundle, "--json"], check=True, capture_output=True, text=True)
        outcomes = [run(bundle, n_questions=n_questions, noise=noise) for noise in NOISES]
        return outcomes, _tokens_per_frame(json.loads(info.stdout))


def _tokens_per_frame(info: dict[str, object]) -> int:
    from aurora_export.config import AuroraConfig

    return AuroraConfig.model_validate(info["config"]).tokens_per_frame


def difference(outcomes: Sequence[Outcome], baseline: Sequence[Outcome]) -> tuple[float, float]:
    """Accuracy minus the baseline's on the same questions, and its standard error over scenes; captions left out."""
    by_scene: dict[int, list[int]] = defaultdict(list)
    for one, base in zip(outcomes, baseline, strict=True):
        if (one.scene_seed, one.question, one.kind) != (base.scene_seed, base.question, base.kind):
            raise ValueError("the two runs were asked different questions")
        if one.kind != "caption":
            by_scene[one.scene_seed].append(one.right - base.right)
    n = sum(map(len, by_scene.values()))
    mean = sum(map(sum, by_scene.values())) / n
    squares = sum((sum(changes) - mean * len(changes)) ** 2 for changes in by_scene.values())
    return mean, math.sqrt(squares) / n


def make_tables(settings: Sequence[Setting], checkpoint: Path, *, n_questions: int) -> list[list[dict[str, object]]]:
    """A table per noise, in it one row per setting; the first row is the baseline of the differences."""
    tables: list[list[dict[str, object]]] = [[] for _ in NOISES]
    baseline: list[list[Outcome]] = []
    for setting in settings:
        print(f"{setting.name} ...", file=sys.stderr, flush=True)
        measured, n_tokens = measure(setting, checkpoint, n_questions=n_questions)
        baseline = baseline or measured
        for table, outcomes, base in zip(tables, measured, baseline, strict=True):
            table.append(make_row(setting, n_tokens, outcomes, base))
    return tables


def make_row(
    setting: Setting, n_tokens: int, outcomes: Sequence[Outcome], baseline: Sequence[Outcome]
) -> dict[str, object]:
    """What the result file holds about one setting at one noise."""
    share, error, _ = accuracy(outcomes)
    change, change_error = difference(outcomes, baseline)
    return {
        "setting": setting.name,
        "overrides": list(setting.overrides),
        "tokens_per_frame": n_tokens,
        "questions": sum(o.kind != "caption" for o in outcomes),
        "accuracy": {name: round(value, 4) for name, value in share.items()},
        "standard_error": {name: round(value, 4) for name, value in error.items()},
        "difference": round(change, 4),
        "difference_standard_error": round(change_error, 4),
        "measurable": abs(change) > _MEASURABLE * change_error,
    }


def markdown(title: str, rows: Sequence[dict[str, object]]) -> str:
    """A table in points of per cent, with a verdict per row."""
    names = ["all", *KINDS]
    lines = [
        f"| {title} | tokens a frame | {' | '.join(names)} | difference | |",
        f"|---|---|{'---|' * len(names)}---|---|",
    ]
    for i, row in enumerate(rows):
        share, error = row["accuracy"], row["standard_error"]
        assert isinstance(share, dict)
        assert isinstance(error, dict)
        cells = [f"{100 * share[name]:.1f} ± {100 * error[name]:.1f}" if name in share else "" for name in names]
        change = (
            f"{100 * float(str(row['difference'])):+.1f} ± {100 * float(str(row['difference_standard_error'])):.1f}"
        )
        verdict = "measurable" if row["measurable"] else "no measurable effect"
        tail = "| |" if i == 0 else f"{change} | {verdict} |"
        lines.append(f"| {row['setting']} | {row['tokens_per_frame']} | {' | '.join(cells)} | {tail}")
    return "\n".join(lines)


def main() -> None:
    """Measure both tables; print them as markdown, or everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HERE / "checkpoint")
    parser.add_argument("--questions", type=int, default=2000, help="per setting, captions not counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    options = parser.parse_args()
    orders = make_tables(ORDERS, options.checkpoint, n_questions=options.questions)
    ratios = make_tables(RATIOS, options.checkpoint, n_questions=options.questions)
    names = ["as trained" if noise is None else f"noise {noise:g}" for noise in NOISES]
    result = {
        "what": "accuracy of the shipped testbed when only the order or the kept ratio is changed; not trained again",
        "video": "8 frames of 64 pixels, generic prompt, greedy",
        "order": dict(zip(names, orders, strict=True)),
        "kept_ratio": dict(zip(names, ratios, strict=True)),
    }
    if options.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    for title, tables in (("order", orders), ("kept ratio", ratios)):
        for name, table in zip(names, tables, strict=True):
            print(f"{markdown(f'{title}, {name}', table)}\n")


if __name__ == "__main__":
    main()
