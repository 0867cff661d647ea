"""Engines of TensorRT and TensorRT-RTX: buffers on the GPU, a state that stays there, the step as a CUDA graph.

    vision's stream     copy in ─ frame n+1 ─ copy out
    language's stream   copy in ─ tokens of frame n ────────────── question ─ step ─ step ─ copy out of logits

`feed` returns when the work is enqueued: the next frame is decoded and encoded while the GPU still reads this one.
Tested against stand-ins for TensorRT and CUDA; never run on a GPU so far.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES, GraphSpec
from aurora_export.errors import IncompatibleError
from aurora_export.runtime.cuda_memory import CapturedWork, Cuda, DeviceArray, Event, PinnedArray, Stream
from aurora_export.runtime.tensorrt_library import TensorRt

STEP, PREFILL = 0, 1
"""Profiles of a language engine."""

Profiles = tuple[dict[str, tuple[int, int, int]], ...]
"""As in the manifest: for each profile, letter of the contract -> least, usual and most."""

_log = logging.getLogger(__name__)


class TensorRtEngine:
    """One engine of a bundle; see `engine.Engine`."""

    def __init__(self, library: TensorRt, path: Path, spec: GraphSpec, profiles: Profiles) -> None:
        """Open an engine and compare it with the contract. Raises IncompatibleError or ResourceError."""
        self.spec, self._library, self._cuda = spec, library, library.cuda
        self.backend = library.device
        self._profiles = profiles
        self._engine = library.deserialize(path)
        differences = [*_differences(library.module, self._engine, spec)]
        if self._engine.num_optimization_profiles != len(profiles):
            differences.append(f"{self._engine.num_optimization_profiles} profiles, expected {len(profiles)}")
        if differences:
            raise IncompatibleError(
                f"{path}: the engine is not as the contract says: {'; '.join(differences)}",
                hint="build the engines again with this version of aurora-export",
            )
        self.stream = Stream(self._cuda)
        self.lock = threading.Lock()
        """held while anything is enqueued: contexts and the stream are of all loops"""
        self._contexts: dict[int, Any] = {}
        self._free: list[LoopBuffers] = []

    def context(self, profile: int) -> Any:
        """The context of a profile, made when it is first needed."""
        if profile not in self._contexts:
            context = self._engine.create_execution_context()
            if context is None or not context.set_optimization_profile_async(profile, self.stream.handle):
                raise RuntimeError(f"TensorRT makes no context for profile {profile}: {self._library.logger.last}")
            self.stream.wait()
            self._contexts[profile] = context
        return self._contexts[profile]

    def execute(self, profile: int, arrays: Mapping[str, DeviceArray], shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Enqueue a run. arrays: every input and output.  shapes: of the inputs."""
        context = self.context(profile)
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise ValueError(f"{name}: the shape {shape} is not in profile {profile} of the engine")
        for name, array in arrays.items():
            context.set_tensor_address(name, array.address)
        if not context.execute_async_v3(self.stream.handle):
            raise RuntimeError(f"TensorRT does not run: {self._library.logger.last}")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs for all inputs, by the names of the contract; more frames than a run takes go in several."""
        sizes = self._sizes(inputs)
        most = self._profiles[-1].get("F", (0, 0, 0))[2]
        if most and sizes["F"] > most:
            frames = inputs["frames"]
            parts = [self.run({"frames": frames[start : start + most]}) for start in range(0, len(frames), most)]
            return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        with self.lock:
            self._cuda.use()
            given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            arrays = {name: DeviceArray(self._cuda, array.shape, str(array.dtype)) for name, array in given.items()}
            for name, array in given.items():
                self.stream.copy_in(arrays[name], array.ctypes.data, array.nbytes)
            outputs = {tensor.name: np.empty(tensor.resolve(**sizes), tensor.dtype) for tensor in self.spec.outputs}
            for name, array in outputs.items():
                arrays[name] = DeviceArray(self._cuda, array.shape, str(array.dtype))
            profile = PREFILL if len(self._profiles) > 1 and sizes["T"] > 1 else STEP
            try:
                self.execute(profile, arrays, {name: array.shape for name, array in given.items()})
                for name, array in outputs.items():
                    self.stream.copy_out(array.ctypes.data, arrays[name], array.nbytes)
            finally:
                self.stream.wait()  # before the arrays go
        return outputs

    def _sizes(self, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Letter of the contract -> size, from the shapes of the inputs."""
        sizes: dict[str, int] = {}
        for tensor in self.spec.inputs:
            for entry, size in zip(tensor.shape, inputs[tensor.name].shape, strict=True):
                if isinstance(entry, str):
                    sizes[entry] = size
        return sizes

    def open_loop(self) -> TensorRtLoop:
        """A new recurrence, its state zero."""
        return TensorRtLoop(self)

    def take_buffers(self) -> LoopBuffers:
        """Buffers of a loop that is gone, with what was captured over them, or new ones."""
        with self.lock:
            self._cuda.use()
            return self._free.pop() if self._free else LoopBuffers(self._cuda, self.spec)

    def give_back(self, buffers: LoopBuffers) -> None:
        """Nobody uses them any more."""
        self._free.append(buffers)


class LoopBuffers:
    """The arrays of one recurrence: two sets of states, read and written in turn, and what goes in and comes out.

    Embeddings wait in one of two pinned arrays until the stream has copied them, while the other one is filled.
    """

    def __init__(self, cuda: Cuda, spec: GraphSpec) -> None:
        self.shapes = {name: spec[name].resolve(B=1) for name in STATE_NAMES}
        self.sets = [
            {name: DeviceArray(cuda, shape, "float32") for name, shape in self.shapes.items()} for _ in range(2)
        ]
        most = spec["embeddings"].resolve(B=1, T=MAX_CHUNK_TOKENS)
        self.embeddings = DeviceArray(cuda, most, "float32")
        self.logits = DeviceArray(cuda, spec["logits"].resolve(B=1), "float32")
        self.host_embeddings = [PinnedArray(cuda, most, "float32") for _ in range(2)]
        self.copied = [Event(cuda) for _ in range(2)]
        self.host_logits = PinnedArray(cuda, spec["logits"].resolve(B=1), "float32")
        self.done = Event(cuda)
        self.steps: list[CapturedWork | None] = [None, None]
        """of the two directions"""
        self.can_capture, self.has_stepped = True, False

    def arrays(self, current: int) -> dict[str, DeviceArray]:
        """Every input and output, for the direction away from set `current`."""
        source, target = self.sets[current], self.sets[1 - current]
        after = {f"next_{name}": array for name, array in target.items()}
        return {"embeddings": self.embeddings, **source, "logits": self.logits, **after}


class TensorRtLoop:
    """A recurrence over a language engine; see `engine.Loop`."""

    def __init__(self, engine: TensorRtEngine) -> None:
        """Take buffers and make the state zero."""
        self._engine, self._cuda = engine, engine._cuda
        self._buffers = engine.take_buffers()
        self._current = self._turn = 0
        weakref.finalize(self, engine.give_back, self._buffers)
        self.write_state({name: np.zeros(shape, np.float32) for name, shape in self._buffers.shapes.items()})

    def advance(self, embeddings: np.ndarray) -> np.ndarray:
        """Run T tokens and move the state on; see `engine.Loop`."""
        buffers, stream = self._buffers, self._engine.stream
        with self._engine.lock:
            self._enqueue(embeddings)
            stream.copy_out(buffers.host_logits.address, buffers.logits, buffers.logits.n_bytes)
            stream.record(buffers.done)
        buffers.done.wait()
        return buffers.host_logits.array[0]

    def feed(self, embeddings: np.ndarray) -> None:
        """As `advance`, without the logits; returns before the GPU is done."""
        with self._engine.lock:
            self._enqueue(embeddings)

    def _enqueue(self, embeddings: np.ndarray) -> None:
        n_tokens = len(embeddings)
        if not 1 <= n_tokens <= MAX_CHUNK_TOKENS:
            raise ValueError(f"{n_tokens} tokens in one run; 1 to {MAX_CHUNK_TOKENS} are possible")
        self._cuda.use()
        buffers, stream, turn = self._buffers, self._engine.stream, self._turn
        buffers.copied[turn].wait()
        host = buffers.host_embeddings[turn]
        host.array[0, :n_tokens] = embeddings
        stream.copy_in(buffers.embeddings, host.address, host.array[:, :n_tokens].nbytes)
        stream.record(buffers.copied[turn])
        if n_tokens == 1:
            self._step()
        else:
            self._execute(PREFILL, n_tokens)
        self._turn, self._current = 1 - turn, 1 - self._current

    def _step(self) -> None:
        """Captured when it comes a second time: the first one lets TensorRT settle what depends on shapes."""
        buffers, stream, current = self._buffers, self._engine.stream, self._current
        if buffers.has_stepped and buffers.can_capture and buffers.steps[current] is None:
            try:
                buffers.steps[current] = stream.capture(lambda: self._execute(STEP, 1))
            except RuntimeError as error:
                _log.info("no CUDA graph for the step: %s", str(error))  # the error itself would hold the buffers
                buffers.can_capture = False
        work = buffers.steps[current]
        if work is not None:
            stream.launch(work)
        else:
            self._execute(STEP, 1)
        buffers.has_stepped = True

    def _execute(self, profile: int, n_tokens: int) -> None:
        shapes = {"embeddings": (1, n_tokens, self._buffers.embeddings.shape[2]), **self._buffers.shapes}
        self._engine.execute(profile, self._buffers.arrays(self._current), shapes)

    def read_state(self) -> dict[str, np.ndarray]:
        """Copies of the state arrays by name, of batch 1."""
        arrays = {name: np.empty(shape, np.float32) for name, shape in self._buffers.shapes.items()}
        with self._engine.lock:
            self._cuda.use()
            for name, array in arrays.items():
                self._engine.stream.copy_out(array.ctypes.data, self._buffers.sets[self._current][name], array.nbytes)
            self._engine.stream.wait()
        return arrays

    def write_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from another state; the arrays are copied."""
        for name, shape in self._buffers.shapes.items():
            if arrays[name].shape != shape or arrays[name].dtype != np.float32:
                raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not float32 {shape}")
        given = {name: np.ascontiguousarray(arrays[name]) for name in self._buffers.shapes}
        with self._engine.lock:
            self._cuda.use()
            for name, array in given.items():
                self._engine.stream.copy_in(self._buffers.sets[self._current][name], array.ctypes.data, array.nbytes)
            self._engine.stream.wait()


def _differences(trt: Any, engine: Any, spec: GraphSpec) -> list[str]:
    """What the engine has otherwise than the contract."""
    kinds = {trt.DataType.FLOAT: "float32", trt.DataType.UINT8: "uint8", trt.DataType.INT32: "int32"}
    found = {}
    for i in range(engine.num_io_tensors):
        name = engine.get_tensor_name(i)
        mode = "input" if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else "output"
        dtype = kinds.get(engine.get_tensor_dtype(name), str(engine.get_tensor_dtype(name)))
        found[name] = (mode, dtype, tuple(engine.get_tensor_shape(name)))
    expected = {
        tensor.name: (mode, tensor.dtype, tensor.shape)
        for mode, tensors in (("input", spec.inputs), ("output", spec.outputs))
        for tensor in tensors
    }
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        (mode, dtype, shape), (found_mode, found_dtype, found_shape) = expected[name], found[name]
        # A size that every profile fixes may be fixed in the engine; one that the contract fixes never differs.
        agrees = len(shape) == len(found_shape) and all(
            isinstance(size, str) or actual in (size, -1) for size, actual in zip(shape, found_shape, strict=True)
        )
        if (mode, dtype) != (found_mode, found_dtype) or not agrees:
            problems.append(f"{name} is {found_mode} {found_dtype} {found_shape}, expected {mode} {dtype} {shape}")
    return sorted(problems)
