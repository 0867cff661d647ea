"""The targets of TensorRT: what they ask of this machine before anything is built, and the options of a build."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aurora_export.errors import DependencyError, IncompatibleError, UsageError
from aurora_export.nvidia_driver import gpu
from aurora_export.plugins.cuda import BUILD, TENSORRT_LIBRARY, expected_path, library_path
from aurora_export.runtime.tensorrt_library import PRODUCTS

TENSORRT_TARGETS = {"tensorrt": None, "orin": "8.7", "thor": "11.0"}
"""Target -> compute capability that the GPU must have; None for any."""

HARDWARE_LEVELS = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}
"""Value of --hardware-compatible -> name in TensorRT; the second since 10.7 or so, which the builder finds out."""

SMOKE_TEST_HEADERS = "0.0"
"""What a library says that was built with the declarations of our tests."""


@dataclass(frozen=True)
class TensorRtOptions:
    """How TensorRT builds."""

    gpu: int = 0
    """as NVIDIA's driver counts"""
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    timing_cache: Path | None = None
    """a file; None: one for this version and GPU, in the user's cache folder"""
    version_compatible: bool = False
    hardware_compatible: str | None = None
    """of HARDWARE_LEVELS"""


def tensorrt_target(target: str, options: TensorRtOptions) -> dict[str, Any]:
    """What a build for a target needs, as fields of `engine_from_onnx.Builder`.

    Raises UsageError, DependencyError or IncompatibleError with what is missing.
    """
    if options.optimization_level is not None and not 0 <= options.optimization_level <= 5:
        raise UsageError(f"optimization level {options.optimization_level}: it is 0 to 5")
    if options.workspace_bytes is not None and options.workspace_bytes < 1:
        raise UsageError("a workspace of no bytes", hint="leave the limit out, or give one such as 2GB")
    if options.hardware_compatible not in (None, *HARDWARE_LEVELS):
        raise UsageError(
            f"hardware level {options.hardware_compatible}: unknown", hint=f"one of {', '.join(HARDWARE_LEVELS)}"
        )
    if find_spec("tensorrt") is None:
        raise DependencyError(
            f"--target {target} needs tensorrt, not installed here", hint=PRODUCTS["tensorrt"].install
        )
    device = gpu(options.gpu)
    needed = TENSORRT_TARGETS[target]
    if needed not in (None, device.compute_capability):
        raise IncompatibleError(
            f"target {target} is for compute capability {needed}; "
            f"this GPU, {device.name}, has {device.compute_capability}",
            hint="TensorRT builds on the device that runs the engine; --target tensorrt takes any GPU",
        )
    library = plugin_library()
    level = options.hardware_compatible
    compatible = (*(("version",) if options.version_compatible else ()), *((level,) if level else ()))
    cache = options.timing_cache or default_timing_cache(device.compute_capability)
    return {
        "compute_capabilities": (device.compute_capability,),
        "job": {
            "plugin_library": str(library),
            "timing_cache": str(cache.resolve()),
            "workspace_bytes": options.workspace_bytes,
            "optimization_level": options.optimization_level,
            "version_compatible": options.version_compatible,
            "hardware_compatible": HARDWARE_LEVELS[level] if level else None,
        },
        "environment": {"CUDA_VISIBLE_DEVICES": str(options.gpu)} if options.gpu else {},
        "gpu": device.name,
        "compatible": compatible,
        "versions": {"aurora_tensorrt": headers_of(library)},
    }


def plugin_library() -> Path:
    """The library of our plugins. Raises DependencyError if it is not there, or one for tests."""
    path = library_path(TENSORRT_LIBRARY)
    if path is None:
        raise DependencyError(f"{expected_path(TENSORRT_LIBRARY)} was not built", hint=BUILD)
    if headers_of(path) == SMOKE_TEST_HEADERS:
        raise DependencyError(f"{path}: was built for our tests, without TensorRT's headers", hint=BUILD)
    return path


def headers_of(library: Path) -> str:
    """The version of TensorRT's headers that a plugin library was built with, as 10.3. Raises DependencyError."""
    try:
        headers = ctypes.CDLL(str(library)).aurora_tensorrt_headers
    except (OSError, AttributeError) as error:
        raise DependencyError(f"{library}: not a library of our plugins: {error}", hint=BUILD) from error
    headers.restype = ctypes.c_char_p
    return str(headers().decode())


def default_timing_cache(capability: str) -> Path:
    """A file in the user's cache folder: times of this version's kernels on this kind of GPU."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    try:
        installed = version("tensorrt")
    except PackageNotFoundError:
        installed = "unknown"
    return folder / "aurora-export/tensorrt" / f"{installed}-{capability}.timing"
