"""aurora-export build: checkpoint to bundle."""

from __future__ import annotations

import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from aurora_export.cli.build_engines import (
    OPTIONS,
    build_engines_of,
    refuse_other_options,
    refuse_target_options,
    target_options,
)
from aurora_export.cli.build_gate import gate, gate_options
from aurora_export.cli.build_quantization import check_quantization, opened_calibration, quantization_options
from aurora_export.cli.measured import lines_of
from aurora_export.cli.program import Subcommand
from aurora_export.errors import DependencyError, UsageError

if TYPE_CHECKING:
    from aurora_export.manifest import Manifest, Precision

Settings = dict[str, dict[str, Any]]
"""Section -> key -> value, as `config_from_parts` takes them."""

NEEDED = ("torch", "onnx", "onnxscript", "onnxruntime")
PRECISIONS = ("fp32", "fp16", "int8", "fp8", "int4")
"""Of graphs without --scales those of the manifest, which is not imported for --help."""

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
@quantization_options
@click.option("--target", metavar="NAME", help="Build engines for a BUNDLE: tensorrt, orin, thor or tensorrt-rtx.")
@target_options
@click.option("--max-drop", type=float, metavar="POINTS", help="Fail if the answers lose more against fp32.")
@click.option("--questions", type=_PATH, metavar="FILE", help="For --max-drop: JSON lines of video, prompt, answer.")
@click.option("--against", type=_PATH, metavar="BUNDLE", help="For --max-drop: fp32 bundle of it.  [default: built]")
@click.pass_context
def build_command(
    context: click.Context,
    /,
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
    precision: str,
    target: str | None,
    **others: Any,  # those of engines, of quantization and of the gate, which are checked together
) -> None:
    """Export CHECKPOINT, a folder or file of weights, to a bundle, and compare it with the reference.

    The parts may also be given one by one. A bundle that exists is replaced once the new one is complete and has
    passed; anything else is never overwritten.

    With --target, CHECKPOINT is a bundle, and the engines that are built from it are added to it: by TensorRT for the
    GPU of this machine, by TensorRT-RTX for each --compute-capability.
    """
    if target is not None:
        refuse_other_options(context)
        build_engines_of(checkpoint, target, **{name: others[name] for name in OPTIONS})
        return
    refuse_target_options(context)
    if out is None:
        raise UsageError("no --out", hint="give --out NAME.aurora, the bundle to write")
    check_quantization(context.params)
    overrides = _overrides(settings, token_kept_ratio)
    if checkpoint is None and not (language and vision and projector):
        raise UsageError("no checkpoint", hint="give CHECKPOINT, or --language, --vision and --projector")
    gate_asked = gate_options(context.params)
    _check_dependencies()

    from aurora_export.cli.progress import Progress
    from aurora_export.export.bundle import build_bundle, check_destination
    from aurora_export.model.checkpoint import CheckpointSource, open_checkpoint

    check_destination(out)
    quantizer, feedback = opened_calibration(context.params)
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
        of_graphs = cast("Precision", precision) if quantizer is None else quantizer.precision
        with gate(gate_asked, loaded, progress) as accept:
            manifest = build_bundle(
                loaded,
                out,
                precision=of_graphs,
                quantizer=quantizer,
                feedback=feedback,
                progress=progress,
                accept=accept,
            )
    click.echo(_summary(out, manifest, [] if accept is None else accept.lines))


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


def _summary(out: Path, manifest: Manifest, answers: list[str]) -> str:
    """What was built, ending with the line that says that it passed."""
    config = manifest.config
    n_patches, n_kept = config.vision.n_patches, config.tokens_per_frame
    size_mb = sum(entry.size for entry in manifest.digests.values()) / 1e6
    lines = [
        f"{out}: {size_mb:.1f} MB, {manifest.precision}, profile {config.profile}",
        f"  tokens per frame: {n_kept} of {n_patches} ({n_kept / n_patches:.3f}, asked {config.merge.kept_ratio:g})",
        *(f"  {line}" for line in lines_of(manifest.verification)),
        *(f"  {line}" for line in answers),
        *(f"  report: {path}" for path in manifest.digests if path.endswith(".html")),
        "PASS",
    ]
    return "\n".join(lines)
