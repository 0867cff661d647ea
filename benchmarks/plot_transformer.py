"""Draw docs/transformer.svg from the result files: latency and memory by frames, ours beside a transformer of its size.

python benchmarks/plot_transformer.py     (needs the extra `plots`)

A filled mark was measured, an open one is integrated from measured rates, a small one is extrapolated.
"""

from __future__ import annotations

from typing import Any

import click
from plot import GREY, draw_pair
from report_peers import PLOT, watched_rows
from result_tables import ROOT, read_result

OUT = ROOT / "docs" / PLOT
COLOURS = ("#d1495b", "#b8860b", "#3f8fc4", "#2e9e6b")
MARKS: dict[str, dict[str, Any]] = {
    "measured": {"marker": "o"},
    "integrated": {"marker": "o", "markerfacecolor": "none"},
    "extrapolated": {"marker": "."},
}


def draw(axes: Any, frames: list[int], values: list[float], kinds: list[str], colour: str, title: str) -> None:
    """One line, and a mark at each point by what kind of figure it is."""
    axes.plot(frames, values, "-", color=colour, label=title, linewidth=1.2)
    for kind, style in MARKS.items():
        points = [(frame, value) for frame, value, of in zip(frames, values, kinds, strict=True) if of == kind]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="none", color=colour, markersize=4.5, **style)


def draw_latency(axes: Any) -> None:
    """Seconds of watching, first answer token included."""
    for (title, rows), colour in zip(read_result("transformer")["curves"].items(), COLOURS, strict=False):
        kinds = [row["kind"] for row in rows]
        seconds = [row["latency_s"] for row in rows]
        draw(axes, [row["n_frames"] for row in rows], seconds, kinds, colour, f"transformer: {title}")
    ours = watched_rows()
    seconds = [row["watch_s"] + row["first_token_ms"] / 1000 for row in ours]
    draw(axes, [row["n_frames"] for row in ours], seconds, ["measured"] * len(ours), COLOURS[-1], "this, int8")
    axes.set(xscale="log", yscale="log", xlabel="frames", ylabel="seconds until an answer begins")
    axes.legend(frameon=False, fontsize=8)


def draw_memory(axes: Any) -> None:
    """GiB of all processes; the machine's as a line."""
    result = read_result("transformer")
    for rows, colour in zip(result["curves"].values(), COLOURS, strict=False):
        values = [row["memory_mib"] / 1024 for row in rows]
        draw(axes, [row["n_frames"] for row in rows], values, [row["memory_kind"] for row in rows], colour, "")
    ours = watched_rows()
    values = [row["peak_rss_mib"] / 1024 for row in ours]
    draw(axes, [row["n_frames"] for row in ours], values, ["measured"] * len(ours), COLOURS[-1], "")
    memory = result["environment"]["memory_gib"]
    axes.axhline(memory, color=GREY, linestyle=":")
    axes.annotate("memory of this machine", (1, memory), (0, 3), textcoords="offset points", color=GREY, fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="frames", ylabel="peak memory, GiB")


@click.command()
def main() -> None:
    """Write docs/transformer.svg."""
    draw_pair(OUT, draw_latency, draw_memory)


if __name__ == "__main__":
    main()
