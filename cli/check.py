"""aurora-export check: a bundle against its self-check, or against the checkpoint that it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.program import Subcommand
from aurora_export.errors import EXIT_ACCURACY, EXIT_OK, AuroraError, UsageError

if TYPE_CHECKING:
    from aurora_export.cli.progress import Progress
    from aurora_export.config import AuroraConfig
    from aurora_export.manifest import Manifest, Verification


@click.command("check", cls=Subcommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), metavar="CHECKPOINT", help="Compare with the model.")
@click.option("--layers", is_flag=True, help="Compare every layer too; needs --reference.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(*, bundle: Path, reference: Path | None, layers: bool, as_json: bool) -> int:
    """Check BUNDLE: digests of its files, then its outputs for the example inside it.

    The example needs no PyTorch. With --reference the model itself is run beside the bundle, with the bundle's
    settings. The last line is PASS or FAIL; exit code 5 if an error is over its limit.
    """
    from aurora_export.cli.progress import Progress

    if layers and reference is None:
        raise UsageError("--layers compares with a reference", hint="give --reference CHECKPOINT too")
    try:
        with Progress() as progress:
            manifest, sections = _run_checks(bundle, reference, progress)
    except AuroraError:
        if not as_json:
            click.echo("FAIL")
        raise
    passed = all(_passed(verification) for verification in sections.values())
    if as_json:
        click.echo(json.dumps(_report(manifest, sections, passed=passed), indent=2))
    else:
        for title, verification in sections.items():
            click.echo(title)
            for line in describe(verification):
                click.echo(f"  {line}")
        click.echo("PASS" if passed else "FAIL")
    return EXIT_OK if passed else EXIT_ACCURACY


def _run_checks(bundle: Path, reference: Path | None, progress: Progress) -> tuple[Manifest, dict[str, Verification]]:
    """Everything that was asked for, cheapest first, by title."""
    from aurora_export.export.selfcheck import run_selfcheck
    from aurora_export.manifest import resolve
    from aurora_export.runtime.opened_bundle import open_bundle

    progress.phase("verify digests")
    opened = open_bundle(bundle, progress=lambda path, _: progress.detail(path))
    manifest = opened.manifest
    progress.phase("run the self-check")
    path = resolve(bundle, manifest, "selfcheck")
    sections = {
        "self-check": run_selfcheck(path, opened.vision, opened.language, precision=manifest.precision),
    }
    del opened  # the comparison opens the graphs itself, one after the other
    if reference is not None:
        from aurora_export.export.verify import verify_files_of
        from aurora_export.model.checkpoint import CheckpointSource, load_checkpoint

        progress.phase("read the checkpoint")
        config = manifest.config
        loaded = load_checkpoint(CheckpointSource(reference), profile=config.profile, overrides=_settings(config))
        if loaded.config != config:
            ...
        progress.phase("compare with the reference")
        files = {role: resolve(bundle, manifest, role) for role in manifest.files}
        sections["reference"] = verify_files_of(
            files, loaded.model, precision=manifest.precision, progress=lambda share: progress.detail(f"{share:.0%}")
        )
    return manifest, sections
