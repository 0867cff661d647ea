"""The README's tables, from the result files: no number is typed by hand.

python benchmarks/report.py           prints them
python benchmarks/report.py --write   puts them between the markers in README.md
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- results: python benchmarks/report.py --write -->", "<!-- end of results -->"
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
    for name, title in (("order", "order of the tokens"), ("kept_ratio", "kept ratio")):
        noises = list(result[name])
        rows = []
        for row, *others in zip(*result[name].values(), strict=True):
            cells = [ablation_cell(entry) for entry in (row, *others)]
            rows.append([row["setting"], str(row["tokens_per_frame"]), *cells])
        parts.append(table([title, "tokens a frame", *noises], rows))
    return "\n\n".join(parts)


def ablation_cell(row: Mapping[str, Any]) -> str:
    """Accuracy with its standard error, and whether the paired difference to the first row can be told from chance."""
    cell = f"{100 * row['accuracy']['all']:.1f} ± {100 * row['standard_error']['all']:.1f}"
    return f"**{cell}**" if row["measurable"] else cell


def report() -> str:
    """All tables of the README."""
    environment = read_result("memory_by_length")["environment"]
    machine = f"{environment['cores']} cores, {environment['cpu']}"
    return f"""Accuracy on held-out scenes, through the exported bundle (`testbed_accuracy*.json`):

{accuracy_table()}

Peak memory of the whole process does not grow with the video (`memory_by_length.json`; {machine}):

{memory_table()}

What another order or kept ratio costs at run time: accuracy over the five kinds of question in per cent, ± standard
error, on scenes like the training's and on far noisier ones. The weights are the same in every row, trained on
ascending order at ratios 0.1, 0.2 and 0.5. **Bold**: the paired difference to the first row is over two standard
errors; everything else has no measurable effect at this size (`testbed_ablation.json`):

{ablation_tables()}"""


def main() -> None:
    """Print the tables, or write them to the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into README.md")
    if not parser.parse_args().write:
        print(report())
        return
    block = f"{BEGIN}\n\n{report()}\n\n{END}"
    text = README.read_text(encoding="utf-8")
    README.write_text(
        re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
