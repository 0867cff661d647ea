"""aurora-export build --target: engines for a bundle that is there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from aurora_export.cli.options import PATH, Command, Size
from aurora_export.cli.progress import Progress
from aurora_export.errors import DependencyError, UsageError

OPTIONS = {
    "compute_capabilities": "--compute-capability",
    "gpu": "--gpu",
    "workspace_bytes": "--builder-memory",
    "optimization_level": "--optimization-level",
    "timing_cache": "--timing-cache",
    "version_compatible": "--version-compatible",
    "hardware_compatible": "--hardware-compatible",
    "kept_graphs": "--keep-graphs",
}
"""Parameters of `build` that need --target -> their options."""

NEEDED = ("torch", "onnx", "onnxscript")
INSTALL = "pip install 'aurora-export[export]'"


def target_options(command: Command) -> Command:
    """What goes with --target."""
    for option in reversed(
        (
            click.option(
                "--compute-capability",
                "compute_capabilities",
                multiple=True,
                metavar="X.Y",
                help="Of the GPUs that engines are for, as 8.6; repeatable (tensorrt-rtx).",
            ),
            click.option("--gpu", type=int, default=0, show_default=True, help="Which GPU to build on and for."),
            click.option(
                "--builder-memory", "workspace_bytes", type=Size(), help="Most that a layer may take to work in."
            ),
            click.option("--optimization-level", type=int, help="0, fast to build, to 5.  [default: TensorRT's]"),
            click.option("--timing-cache", type=PATH, metavar="FILE", help="[default: one in the user's cache folder]"),
            click.option(
                "--version-compatible", is_flag=True, help="For newer TensorRT of the same major version too."
            ),
            click.option(
                "--hardware-compatible", metavar="LEVEL", help="For other GPUs too: ampere+, or same (capability)."
            ),
            click.option(
                "--keep-graphs",
                "kept_graphs",
                type=PATH,
                metavar="DIR",
                help="Also keep the ONNX graphs that the builder gets, in a new folder.",
            ),
        )
    ):
        command = option(command)
    return command


def refuse_other_options(context: click.Context) -> None:
    """Raise UsageError if an option was given that means nothing with --target."""
    for parameter in context.command.params:
        if _is_given(context, parameter) and parameter.name not in {"checkpoint", "target", *OPTIONS}:
            raise UsageError(f"{parameter.opts[-1]} has no meaning with --target", hint="leave it out")


def refuse_target_options(context: click.Context) -> None:
    """Raise UsageError if an option was given that means nothing without --target."""
    for parameter in context.command.params:
        if _is_given(context, parameter) and parameter.name in OPTIONS:
            raise UsageError(f"{OPTIONS[parameter.name]} is for engines", hint="give --target too")


def _is_given(context: click.Context, parameter: click.Parameter) -> bool:
    source = context.get_parameter_source(parameter.name or "")
    return source not in (ParameterSource.DEFAULT, None) and parameter.expose_value


def build_engines_of(
    bundle: Path | None,
    target: str,
    *,
    compute_capabilities: tuple[str, ...],
    kept_graphs: Path | None,
    **options: Any,
) -> None:
    """Build the engines of a bundle, put them into it, and say what was built. options: of TensorRtOptions."""
    if bundle is None:
        raise UsageError("no bundle", hint="aurora-export build BUNDLE --target NAME")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DependencyError(f"--target {target} needs {', '.join(missing)}, not installed here", hint=INSTALL)

    from aurora_export.export.engine_from_onnx import build_engines
    from aurora_export.export.tensorrt_target import TensorRtOptions

    with Progress() as progress:
        manifest = build_engines(
            bundle,
            target=target,
            compute_capabilities=compute_capabilities,
            options=TensorRtOptions(**options),
            kept_graphs=kept_graphs,
            progress=progress,
        )
    variant = manifest.engines[target]
    lines = [f"{bundle}: engines for {target}, compute capability {', '.join(variant.compute_capabilities)}"]
    for graph, path in variant.files.items():
        lines.append(f"  {path}: {manifest.digests[path].size / 1e6:.1f} MB, {len(variant.profiles[graph])} profiles")
    if variant.gpu:
        lines.append(f"  built on {variant.gpu}")
    package, version = next(iter(variant.builder.items()))
    others = f", and what is compatible by {' and '.join(variant.compatible)}" if variant.compatible else " only"
    lines.append(f"  open with {package} {version}{others}")
    click.echo("\n".join(lines))
