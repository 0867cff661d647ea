"""Where a model runs, as a user names it: cpu, cuda, cuda:1, tensorrt, tensorrt:1, tensorrt-rtx."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from aurora_export.errors import UsageError

Backend = Literal["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
"""ONNX Runtime on the CPU; ONNX Runtime on an NVIDIA GPU; engines of the bundle on one, of TensorRT or TensorRT-RTX."""

CHOICE = ", ".join(get_args(Backend))


@dataclass(frozen=True)
class Device:
    """A backend, and the number of the GPU as NVIDIA's driver counts them."""

    backend: Backend
    index: int = 0

    def __str__(self) -> str:
        return self.backend if self.index == 0 else f"{self.backend}:{self.index}"


def parse_device(text: str) -> Device:
    """Raise UsageError for what is no device."""
    for backend in get_args(Backend):
        if match := re.fullmatch(rf"{backend}(?::(\d{{1,3}}))?", text):
            if backend == "cpu" and match[1]:
                break
            return Device(backend, int(match[1] or 0))
    raise UsageError(f"unknown device {text!r}", hint=f"devices: {CHOICE}; cuda:1 is the second GPU")
