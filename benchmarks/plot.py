"""What every plot of a document has in common: the library, its settings, two pairs of axes, and the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from result_tables import ROOT

Draw = Callable[[Any], None]

GREY = "#7d7d7d"
"""Text and axes: as far from white as from the black of a dark page."""


def draw_pair(path: Path, left: Draw, right: Draw) -> None:
    """Draw two pictures side by side on a transparent ground. Raises ClickException without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise click.ClickException(f"{error}: pip install -c constraints.txt 'aurora-export[plots]'") from error
    mpl.use("svg")
    from matplotlib import pyplot

    # The same numbers give the same file, whenever and wherever it is drawn.
    mpl.rcParams.update({"svg.hashsalt": "aurora-export", "svg.fonttype": "none", "font.size": 9})
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    mpl.rcParams.update(dict.fromkeys(names, GREY))
    figure, pair = pyplot.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    for draw, axes in zip((left, right), pair, strict=True):
        draw(axes)
    figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
    click.echo(path.relative_to(ROOT))
