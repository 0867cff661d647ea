"""ONNX Runtime on an NVIDIA GPU: what a session needs there, and a loop whose state stays in the GPU's memory.

Never run on a GPU so far; the tests run this code against a stand-in for the provider.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES, GraphSpec
from aurora_export.errors import DependencyError, IncompatibleError
from aurora_export.nvidia_driver import gpu
from aurora_export.plugins.cuda import BUILD, FOLDER, ORT_LIBRARY, expected_path, is_switched_off, library_path

PROVIDER = "CUDAExecutionProvider"
CPU_PROVIDER = "CPUExecutionProvider"
"""Takes what has no kernel on a GPU, such as the arithmetic of shapes."""

GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"
INSTALL_GPU = "pip uninstall onnxruntime; pip install 'aurora-export[gpu]'"
INSTALL_CUDA = "pip install 'onnxruntime-gpu[cuda,cudnn]', or install CUDA and cuDNN of the versions that it names"

_log = logging.getLogger(__name__)


def check_provider(runtime: Any, index: int) -> None:
    """Raise DependencyError if this ONNX Runtime or this machine has no such GPU, before ONNX Runtime is asked.

    index: of the GPU.  It would go on without a word, on the CPU.
    """
    if PROVIDER not in runtime.get_available_providers():
        raise DependencyError(
            f"--device cuda needs onnxruntime-gpu; this is onnxruntime {runtime.__version__} for CPUs",
            hint=INSTALL_GPU,
        )
    gpu(index)
    if hasattr(runtime, "preload_dlls"):
        runtime.preload_dlls()  # CUDA and cuDNN where pip put them


def register_cuda_operators(options: Any) -> Path | None:
    """Give a session our operators on the GPU. Returns the library, or None where it is switched off.

    Raises DependencyError if it was not built: a graph would run without it, a token at a time.
    """
    if is_switched_off():
        _log.warning("%s is off: WKV runs as the graph's own function, slowly", FOLDER)
        return None
    path = library_path(ORT_LIBRARY)
    if path is None:
        raise DependencyError(
            f"{expected_path(ORT_LIBRARY)} was not built", hint=f"{BUILD}; {FOLDER}=off runs slowly without it"
        )
    try:
        options.register_custom_ops_library(str(path))
    except Exception as error:
        raise IncompatibleError(
            f"{path}: ONNX Runtime cannot use this library: {str(error).splitlines()[0]}", hint=BUILD
        ) from error
    return path


def providers(index: int, *, with_graph: bool) -> list[Any]:
    """What `InferenceSession` takes. TF32 is off: merging compares similarities, and the recurrence sums for long."""
    options = {"device_id": str(index), "use_tf32": "0", "enable_cuda_graph": "1" if with_graph else "0"}
    return [(PROVIDER, options), CPU_PROVIDER]


def open_session(open_with: Callable[[list[Any]], Any], index: int, *, with_graph: bool) -> tuple[Any, bool]:
    """A session on the GPU, and whether its runs can be captured into CUDA graphs.

    open_with: providers -> session.  with_graph: ask for that; ONNX Runtime refuses where any node would run on the
    CPU, and then the session is opened without.
    Raises DependencyError if ONNX Runtime left the GPU out.
    """
    if with_graph:
        try:
            session = open_with(providers(index, with_graph=True))
        except Exception as error:
            if "graph capture" not in str(error).lower() and "cuda graph" not in str(error).lower():
                raise
            _log.info("no CUDA graph for the step: %s", (str(error).splitlines() or [""])[0])
            with_graph = False
    if not with_graph:
        session = open_with(providers(index, with_graph=False))
    if PROVIDER not in session.get_providers():
        raise DependencyError(
            "ONNX Runtime cannot load its CUDA provider: libraries of CUDA or cuDNN are missing, or of another version",
            hint=INSTALL_CUDA,
        )
    return session, with_graph


class Buffers:
    """The arrays of one recurrence in the GPU's memory, and the bindings between them.

    Two sets of states are read and written in turn. A CUDA graph is bound to addresses: each direction has its own,
    over embeddings of one token that stay where they are. Capturing runs a step more than once, which is harmless
    because a step never writes what it reads.
    """

    def __init__(
        self, runtime: Any, session: Any, spec: GraphSpec, index: int, graph_ids: tuple[str, str] | None
    ) -> None:
        """Allocate everything, all zero. graph_ids: of the two directions, or None without CUDA graphs."""
        self.runtime, self.session, self.index = runtime, session, index
        self.zeros = {name: np.zeros(spec[name].resolve(B=1), np.float32) for name in STATE_NAMES}
        self.sets = [{name: self.value(zeros) for name, zeros in self.zeros.items()} for _ in range(2)]
        self.logits = self.value(np.zeros(spec["logits"].resolve(B=1), np.float32))
        self.token = self.value(np.zeros(spec["embeddings"].resolve(B=1, T=1), np.float32))
        directions = (self.sets, self.sets[::-1])
        self.steps = [self._bind(source, target, self.token) for source, target in directions]
        self.chunks = [self._bind(source, target, None) for source, target in directions]
        self.step_options = [self._options(name) for name in graph_ids or (None, None)]
        self.chunk_options = self._options(NO_GRAPH if graph_ids else None)

    def value(self, array: np.ndarray) -> Any:
        """A copy on the GPU."""
        return self.runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), "cuda", self.index)

    def _bind(self, source: dict[str, Any], target: dict[str, Any], embeddings: Any) -> Any:
        binding = self.session.io_binding()
        for name in STATE_NAMES:
            binding.bind_ortvalue_input(name, source[name])
            binding.bind_ortvalue_output(f"next_{name}", target[name])
        binding.bind_ortvalue_output("logits", self.logits)
        if embeddings is not None:
            binding.bind_ortvalue_input("embeddings", embeddings)
        return binding

    def _options(self, graph_id: str | None) -> Any:
        options = self.runtime.RunOptions()
        if graph_id is not None:
            options.add_run_config_entry(GRAPH_ID, graph_id)
        return options


class BufferPool:
    """Buffers of loops that are gone, for the next ones: a session keeps what it captured for as long as it lives."""

    def __init__(self, make: Callable[[int], Buffers]) -> None:
        """make: number of the buffers, from 0 -> new ones."""
        self._make, self._free, self._n_made = make, list[Buffers](), 0
        self._lock = threading.Lock()
        self.one_at_a_time = threading.Lock()
        """held while a CUDA graph is captured or replayed, which ONNX Runtime allows one thread at a time"""

    def take(self) -> Buffers:
        """Buffers with anything in them."""
        with self._lock:
            if self._free:
                return self._free.pop()
            number, self._n_made = self._n_made, self._n_made + 1
        return self._make(number)

    def give_back(self, buffers: Buffers) -> None:
        """Nobody uses them any more."""
        with self._lock:
            self._free.append(buffers)


class OnnxCudaLoop:
    """A recurrence over the language graph on the GPU; see `engine.Loop`. Embeddings go in, logits come out."""

    def __init__(self, pool: BufferPool) -> None:
        """Take buffers and make the state zero."""
        self._pool, self._buffers, self._current = pool, pool.take(), 0
        weakref.finalize(self, pool.give_back, self._buffers)
        self.write_state(self._buffers.zeros)

    def advance(self, embeddings: np.ndarray) -> np.ndarray:
        """Run T tokens and move the state on; see `engine.Loop`."""
        self.feed(embeddings)
        logits: np.ndarray = self._buffers.logits.numpy()
        return logits[0]

    def feed(self, embeddings: np.ndarray) -> None:
        """As `advance`, without the logits."""
        n_tokens = len(embeddings)
        if not 1 <= n_tokens <= MAX_CHUNK_TOKENS:
            raise ValueError(f"{n_tokens} tokens in one run; 1 to {MAX_CHUNK_TOKENS} are possible")
        buffers = self._buffers
        array = np.ascontiguousarray(embeddings[None], np.float32)
        with self._pool.one_at_a_time:
            if n_tokens == 1:
                buffers.token.update_inplace(array)
                buffers.session.run_with_iobinding(buffers.steps[self._current], buffers.step_options[self._current])
            else:
                binding = buffers.chunks[self._current]
                binding.bind_ortvalue_input("embeddings", buffers.value(array))
                buffers.session.run_with_iobinding(binding, buffers.chunk_options)
        self._current = 1 - self._current

    def read_state(self) -> dict[str, np.ndarray]:
        """Copies of the state arrays by name, of batch 1."""
        return {name: value.numpy() for name, value in self._buffers.sets[self._current].items()}

    def write_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from another state; the arrays are copied."""
        for name, zeros in self._buffers.zeros.items():
            array = arrays[name]
            if array.shape != zeros.shape or array.dtype != zeros.dtype:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, not {zeros.dtype} {zeros.shape}")
        for name, value in self._buffers.sets[self._current].items():
            value.update_inplace(np.ascontiguousarray(arrays[name]))
