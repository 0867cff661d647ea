"""Which of a bundle's engines this machine can open, or the field that differs and the command that builds anew."""

from __future__ import annotations

from pathlib import Path

from aurora_export.errors import IncompatibleError
from aurora_export.manifest import EngineVariant, Manifest
from aurora_export.nvidia_driver import Gpu

PACKAGE = "tensorrt"
"""Key of the builder's version."""


def fitting_engines(bundle: Path, manifest: Manifest, gpu: Gpu, version: str) -> EngineVariant:
    """The engines of TensorRT for a GPU and an installed version. Raises IncompatibleError with what differs."""
    variants = {name: variant for name, variant in manifest.engines.items() if PACKAGE in variant.builder}
    build = f"aurora-export build {bundle} --target {next(iter(variants), PACKAGE)}"
    if not variants:
        raise IncompatibleError(f"{bundle}: has no engines of TensorRT", hint=f"{build}   (on this device)")
    problems = []
    for name, variant in variants.items():
        difference = _difference(variant, gpu, version)
        if difference is None:
            return variant
        problems.append(f"engines/{name}: {difference}")
    raise IncompatibleError(f"{bundle}: {'; '.join(problems)}", hint=f"{build}   (on this device)")


def _difference(variant: EngineVariant, gpu: Gpu, version: str) -> str | None:
    """The first field by which an engine does not fit."""
    built = variant.builder[PACKAGE]
    newer = _numbers(version) >= _numbers(built) and _numbers(version)[:1] == _numbers(built)[:1]
    if version != built and not ("version" in variant.compatible and newer):
        return f"TensorRT is {built}, here {version}"
    on_ampere_or_newer = "ampere+" in variant.compatible and _numbers(gpu.compute_capability) >= (8, 0)
    if gpu.compute_capability not in variant.compute_capabilities and not on_ampere_or_newer:
        return f"compute capability is {', '.join(variant.compute_capabilities)}, here {gpu.compute_capability}"
    if variant.gpu not in (None, gpu.name) and not {"ampere+", "same"} & set(variant.compatible):
        return f"GPU is {variant.gpu}, here {gpu.name}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
