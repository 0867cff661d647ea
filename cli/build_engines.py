"""aurora-export build --target: engines for a bundle that is there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import click
from click.core import ParameterSource

from aurora_export.cli.progress import Progress
from aurora_export.errors import DependencyError, UsageError

OPTIONS = {"checkpoint", "target", "compute_capabilities"}
"""Parameters of `build` that go with --target."""

NEEDED = ("torch", "onnx", "onnxscript")
INSTALL = "pip install 'aurora-export[export,tensorrt-rtx]'"


def refuse_other_options(context: click.Context) -> None:
    """Raise UsageError if an option was given that means nothing with --target."""
    for parameter in context.command.params:
        name = parameter.name or ""
        is_given = context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
        if is_given and parameter.expose_value and name not in OPTIONS:
            raise UsageError(f"{parameter.opts[-1]} has no meaning with --target", hint="leave it out")


def build_engines_of(bundle: Path | None, target: str, compute_capabilities: tuple[str, ...]) -> None:
    """Build the engines of a bundle, put them into it, and say what was built."""
    if bundle is None:
        raise UsageError("no bundle", hint="aurora-export build BUNDLE --target NAME")
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise DependencyError(f"--target {target} needs {', '.join(missing)}, not installed here", hint=INSTALL)

    from aurora_export.export.engine_from_onnx import build_engines

    with Progress() as progress:
        manifest = build_engines(bundle, target=target, compute_capabilities=compute_capabilities, progress=progress)
    variant = manifest.engines[target]
    lines = [f"{bundle}: engines for {target}, compute capability {', '.join(variant.compute_capabilities)}"]
    for graph, path in variant.files.items():
        lines.append(f"  {path}: {manifest.digests[path].size / 1e6:.1f} MB, {len(variant.profiles[graph])} profiles")
    lines += [f"  open with {package} {version} only" for package, version in variant.builder.items()]
    click.echo("\n".join(lines))
