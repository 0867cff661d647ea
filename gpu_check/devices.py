"""Where the checks run: a GPU, or for a dry run the CPU, on which the kernels are emulated and times mean nothing."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Cuda:
    """The current NVIDIA GPU."""

    name = "cuda"

    @property
    def stream(self) -> int:
        """Address of torch's current stream."""
        return int(torch.cuda.current_stream().cuda_stream)

    @property
    def capability(self) -> str:
        """Compute capability, as "90"."""
        return "".join(map(str, torch.cuda.get_device_capability()))

    def wait(self) -> None:
        """Until all that was enqueued has run."""
        torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], repeats: int) -> float:
        """Time of one call, on the device: that of `repeats`, replayed from a CUDA graph, best of five."""
        call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                call()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(6):
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3)
        return min(times[1:]) / repeats

    def used_bytes(self) -> int:
        """Memory of this GPU that is in use, by any process."""
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    def describe(self) -> dict[str, Any]:
        """Name, memory, driver and CUDA versions."""
        properties = torch.cuda.get_device_properties(0)
        return {
            "gpu": properties.name,
            "compute_capability": self.capability,
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "torch_cuda": torch.version.cuda,
            "nvcc": _output("nvcc", "--version"),
        }


@dataclass(frozen=True)
class Emulated:
    """The CPU in the place of a GPU."""

    name = "cpu"
    stream = 0
    capability = "86"
    """of no GPU: one that TensorRT-RTX builds for"""

    def wait(self) -> None:
        """Nothing is enqueued here."""

    def seconds(self, call: Callable[[], object], repeats: int) -> float:
        """Time of one call on the CPU, for the form of the result only. repeats: not more than one is made."""
        del repeats
        began = time.perf_counter()
        call()
        return time.perf_counter() - began

    def used_bytes(self) -> int:
        """There is none to measure."""
        return 0

    def describe(self) -> dict[str, Any]:
        """There is no GPU."""
        return {"gpu": None}


def _output(program: str, *arguments: str) -> str | None:
    """What a program prints last, if it is there."""
    if shutil.which(program) is None:
        return None
    process = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    lines = process.stdout.strip().splitlines()
    return lines[-1] if lines else None
