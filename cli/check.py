"""aurora-export check: a bundle against its self-check, or against the checkpoint that it came from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.measured import lines_of
from aurora_export.cli.program import Subcommand
from aurora_export.errors import EXIT_ACCURACY, EXIT_OK, AuroraError, IncompatibleError, UsageError
from aurora_export.runtime.device import CHOICE

if TYPE_CHECKING:
    from aurora_export.cli.progress import Progress
    from aurora_export.config import AuroraConfig
    from aurora_export.export.layers import LayerDifference
    from aurora_export.manifest import Manifest, Verification
    from aurora_export.model.aurora import AuroraModel

NOT_SIZES = {
    "vision": ("layers_used", "layer_norm_eps"),
    "language": ("layer_norm_eps", "group_norm_eps"),
}
"""Settings in sections that otherwise hold sizes, which come from the tensors."""


@click.command("check", cls=Subcommand)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--reference", type=click.Path(path_type=Path), metavar="CHECKPOINT", help="Compare with the model.")
@click.option("--device", default="cpu", show_default=True, help=f"Where to run it: {CHOICE}.")
@click.option("--layers", is_flag=True, help="Compare every layer too; needs --reference.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check_command(*, bundle: Path, reference: Path | None, device: str, layers: bool, as_json: bool) -> int:
    """Check BUNDLE: digests of its files, then its outputs for the example inside it.

    The example needs no PyTorch. With --reference the model itself is run beside the bundle, with the bundle's
    settings. The last line is PASS or FAIL; exit code 5 if an error is over its limit.
    """
    from aurora_export.cli.progress import Progress

    if layers and reference is None:
        raise UsageError("--layers compares with a reference", hint="give --reference CHECKPOINT too")
    if reference is not None and device != "cpu":
        raise UsageError("--reference compares on the CPU", hint="leave --device out, or check without --reference")
    try:
        with Progress() as progress:
            report = _run_checks(bundle, reference, progress, device=device, with_layers=layers)
    except AuroraError:
        if not as_json:
            click.echo("FAIL")
        raise
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        _print(report)
    return EXIT_OK if report.passed else EXIT_ACCURACY


@dataclass
class _Report:
    """What was found."""

    fingerprint: str
    checks: dict[str, Verification]
    """by title"""
    layers: list[LayerDifference] | None = None

    @property
    def passed(self) -> bool:
        outputs = [output for check in self.checks.values() for output in check.outputs.values()]
        # Not `error > limit`: an error that is no number must fail too.
        return all(output.error <= output.limit for output in outputs)

    def as_dict(self) -> dict[str, Any]:
        """The object of --json."""
        found: dict[str, Any] = {"passed": self.passed, "fingerprint": self.fingerprint}
        found |= {title: check.model_dump() for title, check in self.checks.items()}
        if self.layers is not None:
            found["layers"] = [{**asdict(layer), "differs": layer.differs} for layer in self.layers]
        return found


def _run_checks(bundle: Path, reference: Path | None, progress: Progress, *, device: str, with_layers: bool) -> _Report:
    """Everything that was asked for, cheapest first."""
    from aurora_export.export.selfcheck import run_selfcheck
    from aurora_export.runtime.opened_bundle import open_bundle

    progress.phase("verify digests and open the bundle")
    opened = open_bundle(bundle, device=device, progress=lambda path, _: progress.detail(path))
    manifest = opened.manifest
    progress.phase("run the self-check")
    check = run_selfcheck(bundle, manifest, opened.vision, opened.language)
    report = _Report(manifest.fingerprint, {"self-check": check})
    if reference is not None:
        del opened  # the comparison opens the graphs again, one after the other
        model = _load_reference(bundle, manifest, reference, progress)
        report.checks["reference"] = _compare(bundle, manifest, model, progress)
        if with_layers:
            from aurora_export.export.layers import compare_layers

            progress.phase("compare layer by layer")
            report.layers = compare_layers(bundle, model, progress=progress.detail)
    return report


def _load_reference(bundle: Path, manifest: Manifest, reference: Path, progress: Progress) -> AuroraModel:
    """The model of a checkpoint, with the settings of the bundle. Raises IncompatibleError for another model."""
    from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint

    progress.phase("read the checkpoint")
    config = manifest.config
    loaded = open_checkpoint(CheckpointSource(reference), profile=config.profile, overrides=_settings(config))
    if different := _differences(config.model_dump(), loaded.config.model_dump()):
        raise IncompatibleError(
            f"{reference}: is not the model of {bundle}: {'; '.join(different)}",
            hint="give the checkpoint that the bundle was built from",
        )
    return loaded.model


def _compare(bundle: Path, manifest: Manifest, model: AuroraModel, progress: Progress) -> Verification:
    from aurora_export.export.verify import verify_files_of
    from aurora_export.manifest import resolve

    progress.phase("compare with the reference")
    files = {role: resolve(bundle, manifest, role) for role in manifest.files}
    return verify_files_of(
        files, model, precision=manifest.precision, progress=lambda share: progress.detail(f"{share:.0%}")
    )


def _settings(config: AuroraConfig) -> dict[str, dict[str, Any]]:
    """What the bundle was built with and the checkpoint's tensors do not say: all that is not a size."""
    settings: dict[str, dict[str, Any]] = {
        section: getattr(config, section).model_dump() for section in ("merge", "frames", "prompt")
    }
    for section, keys in NOT_SIZES.items():
        settings[section] = {key: getattr(getattr(config, section), key) for key in keys}
    return settings


def _differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two configs, as `section.key is A, in the checkpoint B`."""
    found = []
    for key, value in ours.items():
        if isinstance(value, dict) and isinstance(theirs.get(key), dict):
            found += _differences(value, theirs[key], f"{prefix}{key}.")
        elif value != theirs.get(key):
            found.append(f"{prefix}{key} is {value!r}, in the checkpoint {theirs.get(key)!r}")
    return found


def _print(report: _Report) -> None:
    for title, verification in report.checks.items():
        click.echo(f"{title}:")
        for line in lines_of(verification):
            click.echo(f"  {line}")
    if report.layers is not None:
        click.echo("layers:")
        for layer in report.layers:
            mark = "OVER" if layer.differs else "ok  "
            moved = f", {layer.n_moved} tokens stand elsewhere" if layer.n_moved else ""
            error = f"{layer.relative_error:.2g}" if layer.set_error is None else f"{layer.set_error:.2g} as a set"
            click.echo(f"  {mark} {layer.name}: {error}, limit {layer.limit:.2g}{moved}")
        first = next((layer.name for layer in report.layers if layer.differs), None)
        click.echo(f"  the first that differs: {first or 'none'}")
    click.echo("PASS" if report.passed else "FAIL")
