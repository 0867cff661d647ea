"""aurora-export info: print what a bundle's manifest says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from aurora_export.cli.measured import lines_of
from aurora_export.cli.program import Subcommand

if TYPE_CHECKING:
    from aurora_export.contract import TensorSpec
    from aurora_export.manifest import Manifest

PLAIN_WIDTH = 160
"""Columns where stdout is no terminal: a digest is not broken into two lines."""


@click.command("info", cls=Subcommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def info_command(*, bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE is: model, settings, graphs, files, measured errors. No file but the manifest is read."""
    from aurora_export.manifest import read_manifest

    manifest = read_manifest(bundle)
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
    else:
        _print_tables(manifest)


def _print_tables(manifest: Manifest) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    for title, rows in _sections(manifest):
        table = Table(box=box.SIMPLE, show_header=False, title=title, title_justify="left", title_style="bold")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for key, value in rows:
            table.add_row(key, value)
        console.print(table)


def _sections(manifest: Manifest) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Titles, each with its rows of name and value."""
    config = manifest.config
    head = {
        "created": manifest.created,
        "format": manifest.schema_version,
        "fingerprint": manifest.fingerprint,
        "precision": manifest.precision,
        "profile": config.profile,
        "tokens per frame": f"{config.tokens_per_frame} of {config.vision.n_patches} patches",
        "size": f"{sum(entry.size for entry in manifest.digests.values()) / 1e6:.1f} MB",
    }
    yield manifest.name, list(head.items())
    yield "checkpoint", list(manifest.source.items())
    for section in ("vision", "merge", "frames", "projector", "language", "prompt"):
        values = getattr(config, section).model_dump()
        yield section, [(key, repr(value) if isinstance(value, str) else str(value)) for key, value in values.items()]
    for name, spec in manifest.contract.items():
        rows = [(f"→ {tensor.name}", _tensor_text(tensor)) for tensor in spec.inputs]
        yield f"graph {name}", rows + [(f"  {tensor.name} →", _tensor_text(tensor)) for tensor in spec.outputs]
    yield "files", [(path, f"{entry.size:>12}  {entry.sha256}") for path, entry in manifest.digests.items()]
    for target, variant in manifest.engines.items():
        versions = [f"{package} {version}" for package, version in variant.builder.items()]
        rows = [("compute capability", ", ".join(variant.compute_capabilities)), ("built with", ", ".join(versions))]
        yield f"engines for {target}", rows + list(variant.files.items())
    yield "errors against the reference", [("", line) for line in lines_of(manifest.verification)]
    yield "built with", list(manifest.tools.items())


def _tensor_text(tensor: TensorSpec) -> str:
    return f"{tensor.dtype} [{', '.join(str(size) for size in tensor.shape)}]"
