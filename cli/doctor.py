"""aurora-export doctor: what can be used on this machine, and how to get what is missing."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

import click

from aurora_export import __version__
from aurora_export.cli.program import Subcommand
from aurora_export.errors import EXIT_DEPENDENCY


@dataclass(frozen=True)
class Requirement:
    """A package, by the name of its module, what needs it, and the command that installs it."""

    module: str
    needed_by: str
    install: str


BASE = "pip install aurora-export"
CPU = "pip install 'aurora-export[cpu]'"
EXPORT = "pip install 'aurora-export[export,cpu]'"
REQUIREMENTS = (
    Requirement("numpy", "run", BASE),
    Requirement("safetensors", "run", BASE),
    Requirement("av", "run", BASE),
    Requirement("onnxruntime", "run", CPU),
    Requirement("torch", "build", EXPORT),
    Requirement("onnx", "build", EXPORT),
    Requirement("onnxscript", "build", EXPORT),
)


@click.command("doctor", cls=Subcommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor_command(*, as_json: bool) -> int:
    """Say what is installed and usable here; exit code 7 if bundles cannot be run."""
    report = _examine()
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _print_report(report)
    return 0 if report["usable"]["run"] else EXIT_DEPENDENCY


def _examine() -> dict[str, Any]:
    packages = {requirement.module: _examine_package(requirement) for requirement in REQUIREMENTS}
    usable = {
        # Who builds also runs: a build ends with a comparison through an engine.
        command: all(package["version"] for package in packages.values() if package["needed_by"] in needs)
        for command, needs in {"run": {"run"}, "build": {"run", "build"}}.items()
    }
    return {
        "aurora_export": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": _n_threads(),
        "providers": _providers() if packages["onnxruntime"]["version"] else [],
        "operators": _native_operators(),
        "gpu": _gpu(),
        "packages": packages,
        "usable": usable,
    }


def _examine_package(requirement: Requirement) -> dict[str, Any]:
    """Import a package, which finds broken installations too; its version is None if that fails."""
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    found: dict[str, Any] = {**asdict(requirement), "version": None, "problem": None}
    try:
        module = import_module(requirement.module)
    except Exception as error:  # whatever a broken library raises while it loads
        found["problem"] = f"{type(error).__name__}: {error}"
        return found
    try:
        distributions = packages_distributions().get(requirement.module, [requirement.module])
        found["version"] = version(distributions[0])
    except PackageNotFoundError:
        found["version"] = getattr(module, "__version__", "unknown")
    return found


def _providers() -> list[str]:
    import onnxruntime

    providers: list[str] = onnxruntime.get_available_providers()
    return providers


def _native_operators() -> dict[str, Any]:
    """The native operator library: its file, instruction sets and the one in use; `library` is None without one."""
    from aurora_export.plugins.cpu import LEVEL, LIBRARY_NAME, SWITCH, chosen_level, levels, library_path

    found: dict[str, Any] = {"library": None, "level": None, "levels": {}, "problem": None}
    path = library_path()
    if path is None:
        not_built = f"{LIBRARY_NAME} was not built: install with a C++ compiler"
        found["problem"] = f"{SWITCH} is off" if os.environ.get(SWITCH) == "off" else not_built
        return found
    try:
        found["levels"] = {level.name: level.is_supported for level in levels(path)}
        found["level"] = chosen_level(path)
        found["library"] = str(path)
    except (OSError, ValueError) as error:
        found["problem"] = f"{error} (see {LEVEL})" if isinstance(error, ValueError) else f"{error}: install again"
    return found


def _gpu() -> dict[str, Any]:
    """What each device of an NVIDIA GPU finds here: its `problem` is None, or says what is missing."""
    from importlib.util import find_spec

    from aurora_export.errors import AuroraError
    from aurora_export.nvidia_driver import gpus
    from aurora_export.plugins.cuda import ORT_LIBRARY, TENSORRT_LIBRARY, expected_path, library_path

    found: dict[str, Any] = {"gpus": [], "problem": None}
    try:
        found["gpus"] = [asdict(gpu) for gpu in gpus()]
    except AuroraError as error:
        found["problem"] = f"{error}: {error.hint}"
    needed = {
        "cuda": (ORT_LIBRARY, ()),
        "tensorrt": (TENSORRT_LIBRARY, ("tensorrt", "cuda.bindings")),
        "tensorrt-rtx": (None, ("tensorrt_rtx", "cuda.bindings")),
    }
    for device, (library, modules) in needed.items():
        missing = [name for name in modules if find_spec(name.partition(".")[0]) is None]
        problems = [f"{name} is not installed" for name in missing]
        path = library_path(library) if library else None
        if library and path is None:
            problems.append(f"no {expected_path(library)}: see plugins/cuda/README.md")
        found[device] = {"library": str(path or ""), "problem": "; ".join(problems) or None}
    return found


def _n_threads() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _print_report(report: dict[str, Any]) -> None:
    click.echo(f"aurora-export {report['aurora_export']}, Python {report['python']}, {report['platform']}")
    click.echo(f"CPU threads: {report['threads']}")
    click.echo(f"ONNX Runtime providers: {', '.join(report['providers']) or 'none'}")
    operators = report["operators"]
    state = operators["level"] if operators["library"] else f"none, graphs run slower ({operators['problem']})"
    click.echo(f"native operators: {state}")
    gpu = report["gpu"]
    for found in gpu["gpus"]:
        click.echo(f"GPU {found['index']}: {found['name']}, {found['compute_capability']}, CUDA {found['driver']}")
    if gpu["problem"]:
        click.echo(f"GPU: none ({gpu['problem']})")
    else:
        cuda = "CUDAExecutionProvider" in report["providers"]
        provider = None if cuda else "onnxruntime has no CUDA provider: pip install 'aurora-export[gpu]'"
        click.echo(f"--device cuda: {provider or gpu['cuda']['problem'] or 'usable'}")
        for device in ("tensorrt", "tensorrt-rtx"):
            click.echo(f"--device {device}: {gpu[device]['problem'] or 'usable'}")
    for name, package in report["packages"].items():
        if package["version"]:
            click.echo(f"  {name:12} {package['version']}")
        else:
            click.echo(f"  {name:12} missing, needed by {package['needed_by']}: {package['install']}")
            click.echo(f"  {'':12} {package['problem']}")
    for command, is_usable in report["usable"].items():
        click.echo(f"{command}: {'usable' if is_usable else 'not usable'}")
