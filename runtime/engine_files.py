"""Which of a bundle's engines this machine can open, or the field that differs and the command that builds anew."""

from __future__ import annotations

from pathlib import Path

from aurora_export.errors import IncompatibleError
from aurora_export.manifest import EngineVariant, Manifest
from aurora_export.nvidia_driver import Gpu
from aurora_export.runtime.tensorrt_library import TensorRt


def fitting_engines(bundle: Path, manifest: Manifest, library: TensorRt) -> EngineVariant:
    """The engines for the installed library and its GPU. Raises IncompatibleError with what differs."""
    product = library.product
    variants = {name: variant for name, variant in manifest.engines.items() if product.package in variant.builder}
    hint = product.build_command(bundle, next(iter(variants), library.device), library.gpu)
    if not variants:
        raise IncompatibleError(f"{bundle}: has no engines of {product.title}", hint=hint)
    problems = []
    for name, variant in variants.items():
        built = variant.builder[product.package]
        difference = _version_difference(variant, product.title, built, library.version)
        difference = difference or _gpu_difference(variant, library.gpu)
        if difference is None:
            return variant
        problems.append(f"engines/{name}: {difference}")
    raise IncompatibleError(f"{bundle}: {'; '.join(problems)}", hint=hint)


def _version_difference(variant: EngineVariant, title: str, built: str, version: str) -> str | None:
    newer = _numbers(version) >= _numbers(built) and _numbers(version)[:1] == _numbers(built)[:1]
    if version == built or ("version" in variant.compatible and newer):
        return None
    return f"{title} is {built}, here {version}"


def _gpu_difference(variant: EngineVariant, gpu: Gpu) -> str | None:
    """The first field by which an engine does not fit a GPU."""
    on_ampere_or_newer = "ampere+" in variant.compatible and _numbers(gpu.compute_capability) >= (8, 0)
    if gpu.compute_capability not in variant.compute_capabilities and not on_ampere_or_newer:
        return f"compute capability is {', '.join(variant.compute_capabilities)}, here {gpu.compute_capability}"
    if variant.gpu not in (None, gpu.name) and not {"ampere+", "same"} & set(variant.compatible):
        return f"GPU is {variant.gpu}, here {gpu.name}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
