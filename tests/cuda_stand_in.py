"""Stands in the place of onnxruntime with its CUDA provider: the CPU computes, what was asked for is written down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime

CUDA = "CUDAExecutionProvider"


class OrtValue:
    """An array "on a GPU": a copy, which only update_inplace changes."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.copy()
        self.real = onnxruntime.OrtValue.ortvalue_from_numpy(self.array)

    @classmethod
    def ortvalue_from_numpy(cls, array: np.ndarray, device: str = "cpu", index: int = 0) -> Any:
        return cls(array) if device == "cuda" else onnxruntime.OrtValue.ortvalue_from_numpy(array)

    def update_inplace(self, array: np.ndarray) -> None:
        assert array.shape == self.array.shape and array.dtype == self.array.dtype
        assert array.flags.c_contiguous
        self.array[...] = array

    def numpy(self) -> np.ndarray:
        return self.array.copy()


class Binding:
    def __init__(self, real: Any) -> None:
        self.real = real
        self.inputs: dict[str, OrtValue] = {}

    def bind_ortvalue_input(self, name: str, value: OrtValue) -> None:
        self.inputs[name] = value
        self.real.bind_ortvalue_input(name, value.real)

    def bind_ortvalue_output(self, name: str, value: OrtValue) -> None:
        self.real.bind_ortvalue_output(name, value.real)


class RunOptions(onnxruntime.RunOptions):
    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value


class Session:
    def __init__(self, module: StandIn, real: Any, options: dict[str, str] | None) -> None:
        self.module, self.real, self.cuda_options = module, real, options

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"] if self.module.provider_loads else ["CPUExecutionProvider"]

    def get_inputs(self) -> Any:
        return self.real.get_inputs()

    def get_outputs(self) -> Any:
        return self.real.get_outputs()

    def io_binding(self) -> Binding:
        return Binding(self.real.io_binding())

    def run(self, names: Sequence[str], inputs: dict[str, np.ndarray], options: RunOptions) -> Any:
        self.module.runs.append(("run", options.entries.get("gpu_graph_id")))
        return self.real.run(names, inputs)

    def run_with_iobinding(self, binding: Binding, options: RunOptions) -> None:
        graph = options.entries.get("gpu_graph_id")
        self.module.runs.append((binding.inputs["embeddings"].array.shape[1], graph))
        addresses = {name: value.array.ctypes.data for name, value in binding.inputs.items()}
        if graph not in (None, "-1"):
            seen = self.module.captured.setdefault((id(self), graph), addresses)
            assert seen == addresses, "a CUDA graph was captured with other addresses"
            self.real.run_with_iobinding(binding.real)  # capturing runs a step more than once
        self.real.run_with_iobinding(binding.real)


class StandIn:
    """The module. Its switches say what is wrong with this machine."""

    def __init__(self) -> None:
        self.has_provider = self.provider_loads = self.allows_graphs = True
        self.runs: list[tuple[Any, str | None]] = []
        """tokens (or "run"), and the id of the CUDA graph"""
        self.captured: dict[tuple[int, str], dict[str, int]] = {}
        self.sessions: list[Session] = []
        self.OrtValue, self.RunOptions = OrtValue, RunOptions

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"] if self.has_provider else ["CPUExecutionProvider"]

    def preload_dlls(self) -> None:
        """CUDA's libraries are the CPU here."""

    def InferenceSession(self, path: str, options: Any, providers: list[Any]) -> Any:  # noqa: N802 - its name there
        if providers == ["CPUExecutionProvider"]:
            return onnxruntime.InferenceSession(path, options, providers=providers)
        (name, cuda_options), cpu = providers
        assert (name, cpu) == (CUDA, "CPUExecutionProvider")
        if cuda_options["enable_cuda_graph"] == "1" and not self.allows_graphs:
            raise RuntimeError("This session cannot use the graph capture feature as requested by the user")
        real = onnxruntime.InferenceSession(path, options, providers=[cpu])
        self.sessions.append(Session(self, real, cuda_options))
        return self.sessions[-1]
