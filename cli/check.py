"""aurora-export check."""

from __future__ import annotations

from pathlib import Path

import click

from aurora_export.cli.program import Subcommand


@click.command("check", cls=Subcommand)
@click.argument("bundle", type=click.Path(path_type=Path))
def check_command(*, bundle: Path) -> None:
    """Check BUNDLE."""
