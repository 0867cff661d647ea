"""What all tables of the documents need: result files, and markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NOT_YET = "Not measured yet: there is no result file."


def read_result(name: str) -> Any:
    """Content of benchmarks/results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def is_measured(*names: str) -> bool:
    """Whether all of these result files are there."""
    return all((RESULTS / f"{name}.json").is_file() for name in names)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ratio_text(side: Mapping[str, Any]) -> str:
    """Median and range, over the rounds, of another's time by ours."""
    low, high = side["time_over_native_range"]
    return f"{side['time_over_native']:.2f} ({low:.2f} to {high:.2f})"
