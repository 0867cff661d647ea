"""Draw docs/memory.svg from the result files: what does not grow, and what fades.

python benchmarks/plot_memory.py     (needs the extra `plots`)
"""

from __future__ import annotations

from typing import Any

import click
from plot import GREY, draw_pair
from result_tables import ROOT, read_result

OUT = ROOT / "docs" / "memory.svg"
TITLES = {"nothing": "empty scenes (five kinds)", "objects": "other objects (shape, direction)"}


def draw_growth(axes: Any) -> None:
    """Peak memory, and times as multiples of the shortest video's."""
    runs = read_result("memory_by_frames")["runs"]
    frames = [run["n_frames"] for run in runs]
    for key, title in (
        ("peak_rss_mib", "peak memory of the process"),
        ("frame_ms_last_tenth", "time per frame, last tenth"),
        ("question_ms", "question and answer"),
        ("state_bytes", "state file"),
    ):
        axes.plot(frames, [run[key] / runs[0][key] for run in runs], "o-", label=title)
    axes.set(xscale="log", ylim=(0, 2), xlabel="frames watched", ylabel=f"relative to {frames[0]} frames")
    axes.legend(frameon=False)


def draw_memory(axes: Any) -> None:
    """Accuracy about a scene by how much was watched since."""
    result = read_result("remembering")
    for kind, title in TITLES.items():
        rows = result[kind]
        # A logarithmic axis has no 0: it stands at 1.
        since = [max(1, row["frames_since"]) for row in rows]
        errors = [100 * row["standard_error"] for row in rows]
        axes.errorbar(since, [100 * row["all"] for row in rows], errors, fmt="o-", capsize=3, label=title)
    axes.axhline(100 * result["guessing"], color=GREY, linestyle=":", label="guessing among four")
    axes.set(xscale="log", ylim=(0, 103), xlabel="frames of something else since (1: none)", ylabel="right answers, %")
    axes.legend(frameon=False)


@click.command()
def main() -> None:
    """Write docs/memory.svg."""
    draw_pair(OUT, draw_growth, draw_memory)


if __name__ == "__main__":
    main()
