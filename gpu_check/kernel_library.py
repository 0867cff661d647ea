"""Compiles the CUDA kernels: with nvcc for the GPU at hand, or with g++ and the tests' emulation for a dry run."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = ("wkv6_kernel.cu", "wkv6_tensor_kernel.cu", "wkv7_kernel.cu", "wkv_launch.cpp")
NVCC_FLAGS = ("-std=c++17", "-O3", "-Xcompiler", "-fPIC", "-shared", "-cudart", "static")
EMULATION_FLAGS = ("-std=c++17", "-Og", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fPIC", "-shared")
SANITIZER_FLAGS = ("-fsanitize=undefined", "-fno-sanitize-recover=all")


def compile_for_gpu(source: Path, library: Path, *, capability: str) -> list[str]:
    """Compile for one compute capability, as "90"; returns the command. Raises RuntimeError with nvcc's words."""
    architecture = f"arch=compute_{capability},code=sm_{capability}"
    files = [str(source / name) for name in SOURCES]
    return _run(["nvcc", *NVCC_FLAGS, "-gencode", architecture, *files, "-o", str(library)])


def compile_emulated(source: Path, headers: Path, library: Path) -> list[str]:
    """Compile as C++. headers: the folder tests/plugins/cuda_emulation."""
    files = [str(source / name) for name in SOURCES]
    return _run(["g++", *EMULATION_FLAGS, *SANITIZER_FLAGS, f"-I{headers}", "-xc++", *files, "-o", str(library)])


def compile_operators(root: Path, library: Path, *, capability: str | None, headers: Path) -> list[str]:
    """Compile the operators of ONNX Runtime's CUDA provider.

    capability: None emulates, with `headers` in the place of CUDA's.
    """
    files = [str(root / "plugins/cuda/ort_library.cpp"), *(str(root / "plugins/wkv" / name) for name in SOURCES)]
    if capability is None:
        flags = [*EMULATION_FLAGS, "-DAURORA_EMULATED", f"-I{headers}"]
        return _run(["g++", *flags, "-xc++", *files, "-o", str(library)])
    architecture = f"arch=compute_{capability},code=sm_{capability}"
    return _run(["nvcc", *NVCC_FLAGS, "-gencode", architecture, *files, "-o", str(library)])


def _run(command: list[str]) -> list[str]:
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with exit code {process.returncode}:\n{process.stderr[-4000:]}")
    return command
