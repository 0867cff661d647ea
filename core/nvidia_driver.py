"""What NVIDIA's driver says of this machine, asked of its own library: no CUDA toolkit, no Python package.

It is asked before any object of TensorRT or of a CUDA execution provider is made. Without a driver TensorRT's runtime
gives back an object that looks alive, and crashes the process when it is used; ONNX Runtime goes on without the GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from aurora_export.errors import DependencyError, UsageError

LIBRARY = "libcuda.so.1"
"""Comes with the driver, not with CUDA."""

INSTALL_DRIVER = "install NVIDIA's driver; `nvidia-smi` (on a Jetson: `tegrastats`) must work for this user"

_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76  # of CUdevice_attribute
_NO_DEVICE = 100  # of CUresult: CUDA_ERROR_NO_DEVICE
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """One GPU, as the driver counts them."""

    index: int
    name: str
    compute_capability: str
    """as 8.7"""
    memory_bytes: int
    driver: str
    """newest version of CUDA that the driver runs, as 13.0"""


def gpus() -> tuple[Gpu, ...]:
    """All GPUs that this process may use, one at least. Raises DependencyError with the reason if there is none."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise DependencyError(f"no NVIDIA driver: {error}", hint=INSTALL_DRIVER) from error
    code = library.cuInit(0)
    version, count = ctypes.c_int(), ctypes.c_int()
    if code == 0:
        code = library.cuDriverGetVersion(ctypes.byref(version)) or library.cuDeviceGetCount(ctypes.byref(count))
    if code == _NO_DEVICE or (code == 0 and count.value == 0):
        raise DependencyError(
            "the NVIDIA driver sees no GPU", hint="look at CUDA_VISIBLE_DEVICES, and at what the container may use"
        )
    if code != 0:
        raise DependencyError(f"the NVIDIA driver does not start: {_error_name(library, code)}", hint=INSTALL_DRIVER)
    return tuple(_gpu(library, index, version.value) for index in range(count.value))


def gpu(index: int) -> Gpu:
    """One GPU. Raises DependencyError if there is none at all, UsageError if there is none of that number."""
    found = gpus()
    if index >= len(found):
        names = ", ".join(f"{gpu.index} ({gpu.name})" for gpu in found)
        raise UsageError(f"there is no GPU {index}", hint=f"there are: {names}")
    return found[index]


def _gpu(library: ctypes.CDLL, index: int, version: int) -> Gpu:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, memory = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    for code in (
        library.cuDeviceGet(ctypes.byref(device), index),
        library.cuDeviceGetName(name, _NAME_BYTES, device),
        library.cuDeviceGetAttribute(ctypes.byref(major), _COMPUTE_CAPABILITY_MAJOR, device),
        library.cuDeviceGetAttribute(ctypes.byref(minor), _COMPUTE_CAPABILITY_MINOR, device),
        library.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    ):
        if code != 0:
            raise DependencyError(f"GPU {index} does not answer: {_error_name(library, code)}", hint=INSTALL_DRIVER)
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major.value}.{minor.value}",
        memory_bytes=memory.value,
        driver=f"{version // 1000}.{version % 1000 // 10}",
    )


def _error_name(library: ctypes.CDLL, code: int) -> str:
    name = ctypes.c_char_p()
    library.cuGetErrorName(code, ctypes.byref(name))
    return name.value.decode() if name.value else f"error {code}"
