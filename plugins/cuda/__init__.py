"""The libraries of our operators for NVIDIA GPUs: where they are. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

ORT_LIBRARY = "libaurora_ort_cuda.so"
"""Operators of ONNX Runtime's CUDA provider."""

TENSORRT_LIBRARY = "libaurora_tensorrt.so"
"""Plugins of TensorRT."""

FOLDER = "AURORA_CUDA_LIBRARIES"
"""Environment variable: the folder of both, instead of this one; "off" runs graphs on the functions they carry."""

BUILD = "see plugins/cuda/README.md: cmake builds it where nvcc is, and installs it here"


def library_path(name: str) -> Path | None:
    """The file of ORT_LIBRARY or TENSORRT_LIBRARY; None if it is not there, or switched off."""
    chosen = os.environ.get(FOLDER)
    if chosen == "off":
        return None
    path = (Path(chosen) if chosen else Path(__file__).resolve().parent) / name
    return path if path.is_file() else None


def is_switched_off() -> bool:
    """Whether graphs are to run without these libraries."""
    return os.environ.get(FOLDER) == "off"


def expected_path(name: str) -> Path:
    """Where a library that is missing would have to be."""
    return (Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else Path(__file__).resolve().parent) / name
