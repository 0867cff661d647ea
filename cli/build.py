"""aurora-export build: checkpoint to bundle."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aurora_export.cli.build_engines import build_engines_of, refuse_other_options
from aurora_export.cli.measured import lines_of
from aurora_export.cli.program import Subcommand
from aurora_export.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from aurora_export.manifest import Manifest, Precision

Settings = dict[str, dict[str, Any]]
"""Section -> key -> value, as `config_from_parts` takes them."""

NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")
PRECISIONS = ("fp32", "fp16", "int8", "int4")
"""Those of the manifest, which is not imported for --help."""

INSTALL = "pip install 'aurora-export[export,cpu]'"

_log = logging.getLogger(__name__)

_PATH = click.Path(path_type=Path)


@click.command("build", cls=Subcommand)
@click.argument("checkpoint", type=_PATH, required=False)
@click.option("-o", "--out", type=_PATH, metavar="DIR", help="The bundle to write, NAME.aurora.")
@click.option("--language", type=_PATH, metavar="PATH", help="Language model, instead of the checkpoint's.")
@click.option("--vision", type=_PATH, metavar="PATH", help="SigLIP tower, instead of the checkpoint's.")
@click.option("--projector", type=_PATH, metavar="PATH", help="Projector, instead of the checkpoint's.")
@click.option("--vocabulary", type=_PATH, metavar="FILE", help="Vocabulary file, instead of the checkpoint's.")
@click.option("--profile", metavar="NAME", help="released or paper.  [default: the checkpoint's, or released]")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable.")
@click.option("--token-kept-ratio", type=float, metavar="RATIO", help="Short for --set merge.kept_ratio=RATIO.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Of the graphs.")
@click.option("--target", metavar="NAME", help="Build engines for a BUNDLE instead: tensorrt-rtx.")
@click.option(
    "--compute-capability",
    "compute_capabilities",
    multiple=True,
    metavar="X.Y",
    help="Of the GPUs that engines are for, as 8.6; repeatable.",
)
@click.pass_context
def build_command(
    context: click.Context,
    *,
    checkpoint: Path | None,
    out: Path | None,
    language: Path | None,
    vision: Path | None,
    projector: Path | None,
    vocabulary: Path | None,
    profile: str | None,
    settings: tuple[str, ...],
    token_kept_ratio: float | None,
    precision: Precision,
    target: str | None,
    compute_capabilities: tuple[str, ...],
) -> None:
    """Export CHECKPOINT, a folder or file of weights, to a bundle, and compare it with the reference.

    The parts may also be given one by one. A bundle that exists is replaced once the new one is complete and has
    passed; anything else is never overwritten.

    With --target, CHECKPOINT is a bundle, and the engines that are built from it are added to it.
    """
    if target is not None:
        refuse_other_options(context)
        build_engines_of(checkpoint, target, compute_capabilities)
        return
    if compute_capabilities:
        raise UsageError("--compute-capability is for engines", hint="give --target too")
    if out is None:
        raise UsageError("no --out", hint="give --out NAME.aurora, the bundle to write")
    overrides = _overrides(settings, token_kept_ratio)
    if checkpoint is None and not (language and vision and projector):
        raise UsageError("no checkpoint", hint="give CHECKPOINT, or --language, --vision and --projector")
    _check_dependencies()

    from aurora_export.cli.progress import Progress
    from aurora_export.export.bundle import build_bundle, check_destination
    from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint

    check_destination(out)
    source = CheckpointSource(
        path=checkpoint, language=language, vision=vision, projector=projector, vocabulary=vocabulary
    )
    with Progress() as progress:
        progress.phase("read the checkpoint")
        loaded = open_checkpoint(source, profile=profile, overrides=overrides)
        for warning in loaded.warnings:
            _log.warning(warning)
        if message := loaded.config.unreached_ratio:
            _log.warning(message)
        manifest = build_bundle(loaded, out, precision=precision, progress=progress)
    click.echo(_summary(out, manifest))


def _overrides(settings: tuple[str, ...], token_kept_ratio: float | None) -> Settings:
    """What --set and its short forms ask for. Raises UsageError for what is not SECTION.KEY=VALUE."""
    overrides: Settings = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and section and key):
            raise UsageError(f"--set {setting}: expected SECTION.KEY=VALUE", hint="as in --set merge.order=descending")
        try:
            value = json.loads(text)
        except ValueError:
            value = text  # a word needs no quotes
        overrides.setdefault(section, {})[key.replace("-", "_")] = value
    if token_kept_ratio is not None:
        if "kept_ratio" in overrides.get("merge", {}):
            raise UsageError("--token-kept-ratio and --set merge.kept_ratio are the same setting", hint="give one")
        overrides.setdefault("merge", {})["kept_ratio"] = token_kept_ratio
    return overrides


def _check_dependencies() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DependencyError(f"build needs {', '.join(missing)}, not installed here", hint=INSTALL)


def _summary(out: Path, manifest: Manifest) -> str:
    """What was built, ending with the line that says that it passed."""
    config = manifest.config
    n_patches, n_kept = config.vision.n_patches, config.tokens_per_frame
    size_mb = sum(entry.size for entry in manifest.digests.values()) / 1e6
    lines = [
        f"{out}: {size_mb:.1f} MB, {manifest.precision}, profile {config.profile}",
        f"  tokens per frame: {n_kept} of {n_patches} ({n_kept / n_patches:.3f}, asked {config.merge.kept_ratio:g})",
        *(f"  {line}" for line in lines_of(manifest.verification)),
        "PASS",
    ]
    return "\n".join(lines)
