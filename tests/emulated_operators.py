"""The operator library of the CUDA provider, compiled for the CPU with emulated kernels: the tests' GPU."""

from __future__ import annotations

import subprocess
from pathlib import Path

KERNELS = ("wkv6_kernel.cu", "wkv6_tensor_kernel.cu", "wkv7_kernel.cu", "wkv_launch.cpp")


def compile_operators(root: Path, library: Path) -> Path:
    """Compile plugins/cuda against tests/plugins/cuda_emulation; returns `library`."""
    sources = [str(root / "plugins/cuda/ort_library.cpp"), *(str(root / "plugins/wkv" / name) for name in KERNELS)]
    flags = ["-std=c++17", "-Og", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fPIC", "-shared"]
    command = ["g++", *flags, "-DAURORA_EMULATED", f"-I{root / 'tests/plugins/cuda_emulation'}", "-xc++", *sources]
    process = subprocess.run([*command, "-o", str(library)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return library
