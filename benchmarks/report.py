"""The README's tables, from the result files: no number is typed by hand.

python benchmarks/report.py           prints them
python benchmarks/report.py --write   puts them between the markers in README.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
KINDS = ("colour", "shape", "count", "order", "direction", "caption")


def read_result(name: str) -> Any:
    """Content of benchmarks/results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def accuracy_table() -> str:
    """Accuracy of the testbed through its bundle, by prompt form and by length of the video."""
    result = read_result("testbed_accuracy")
    encoded = read_result("testbed_accuracy_encoded")
    rows = [
        accuracy_row(f"{result['questions']} questions", result["accuracy"]),
        *(accuracy_row(f"… prompt form {form}", row) for form, row in result["accuracy_by_prompt_form"].items()),
        *(accuracy_row(f"… of {n} frames", row) for n, row in result["accuracy_by_frames"].items()),
        accuracy_row(f"{encoded['questions']} questions about H.264 files", encoded["accuracy"]),
    ]
    return table(["testbed, greedy, fp32", *KINDS], rows)


def accuracy_row(name: str, accuracy: Mapping[str, float]) -> list[str]:
    """One row, in per cent."""
    return [name, *(f"{100 * accuracy[kind]:.1f} %" for kind in KINDS)]


def memory_table() -> str:
    """Peak memory of `aurora-export run` by the length of the video."""
    runs = read_result("memory_by_length")["runs"]
    rows = [
        [
            f"{run['video_seconds']} s",
            str(run["n_frames"]),
            str(run["n_visual_tokens"]),
            f"{run['peak_rss_mib']} MiB",
            f"{1000 * sum(run['seconds'][stage] for stage in ('question', 'answer')):.1f} ms",
        ]
        for run in runs
    ]
    return table(
        ["video", "frames watched", "visual tokens", "peak memory of the process", "question and answer"], rows
    )


def ablation_tables() -> str:
    """What another order or kept ratio costs at run time, on scenes like the training's and on noisy ones."""
    result = read_result("testbed_ablation")
    parts = []
    for name, title in (("order", "order"), ("kept_ratio", "kept ratio")):
        head = [title, "tokens a frame"]
        for noise in result[name]:
            head += [f"all, {noise}", "difference"]
        rows = []
        for row, *others in zip(*result[name].values(), strict=True):
            cells = [cell for entry in (row, *others) for cell in ablation_cells(entry, is_baseline=not rows)]
            rows.append([row["setting"], str(row["tokens_per_frame"]), *cells])
        parts.append(table(head, rows))
    return "\n\n".join(parts)


def ablation_cells(row: Mapping[str, Any], *, is_baseline: bool) -> tuple[str, str]:
    """Accuracy and its paired difference to the first row, each with its standard error, in per cent."""
    accuracy = f"{100 * row['accuracy']['all']:.1f} ± {100 * row['standard_error']['all']:.1f}"
    if is_baseline:
        return accuracy, ""
    difference = f"{100 * row['difference']:+.1f} ± {100 * row['difference_standard_error']:.1f}"
    return accuracy, difference if row["measurable"] else f"{difference}, not measurable"


TABLES = {
    "README.md": {"accuracy": accuracy_table, "memory": memory_table},
    "testbed/README.md": {"ablation": ablation_tables},
}
"""Document -> marker in it -> what stands there."""


def with_tables(document: str) -> str:
    """A document's text, its tables made anew. Raises ValueError if a marker is missing."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for name, make in TABLES[document].items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"{document} has no {begin} ... {end}")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> int:
    """Print, write or check the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="say which documents are out of date; exit code 1 if any")
    stale = [document for document in TABLES if with_tables(document) != (ROOT / document).read_text(encoding="utf-8")]
    if parser.parse_args().check:
        print("\n".join(f"{document} is not what the result files say" for document in stale), end="")
        return int(bool(stale))
    for document in stale:
        (ROOT / document).write_text(with_tables(document), encoding="utf-8")
        print(f"{document}: tables written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
