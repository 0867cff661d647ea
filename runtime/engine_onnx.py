"""Graphs on ONNX Runtime, with bound buffers for the recurrent one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aurora_export.contract import MAX_CHUNK_TOKENS, STATE_NAMES, GraphSpec, TensorSpec
from aurora_export.errors import (
    AuroraError,
    DependencyError,
    IncompatibleError,
    IntegrityError,
    ResourceError,
    UsageError,
)
from aurora_export.plugins.cpu import LEVEL, SWITCH, chosen_level, library_path
from aurora_export.runtime.device import Device
from aurora_export.runtime.engine import Loop
from aurora_export.runtime.engine_onnx_cuda import (
    CPU_PROVIDER,
    GRAPH_ID,
    NO_GRAPH,
    BufferPool,
    Buffers,
    OnnxCudaLoop,
    check_provider,
    open_session,
    register_cuda_operators,
)

INSTALL_ONNX_RUNTIME = "pip install 'aurora-export[cpu]'"
CPU = Device("cpu")

EMULATED_PRECISIONS = ("fp8-qdq",)
"""Whose products no kernel of a CPU computes: codes are widened, and the products are those of float32."""

ERRORS_ONLY = 3
"""ONNX Runtime's log level: its warnings are about its own optimiser, not about anything a user can change."""

SPIN_US = "1000"
"""How long a thread without work waits awake, in microseconds. By itself it burns its core for 20 ms and more, beside
the other graph's threads, or the one that decodes the next frame. Between the operators of a run are microseconds.
Before 1.26 nothing reads it."""

NO_REPORTS = "ORT_DISABLE_TELEMETRY"

_log = logging.getLogger(__name__)


def load_library() -> Any:
    """The onnxruntime module. Raises DependencyError with the command that installs it.

    Its packages from 1.29 on report to their maker, unless the environment says otherwise when they are loaded.
    """
    os.environ.setdefault(NO_REPORTS, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            f"ONNX Runtime cannot be imported: {error}",
            hint=f"{INSTALL_ONNX_RUNTIME}   (with an NVIDIA GPU: aurora-export[gpu]; never both)",
        ) from error
    return onnxruntime


class OnnxEngine:
    """One ONNX graph in an ONNX Runtime session."""

    def __init__(
        self,
        path: Path,
        spec: GraphSpec,
        *,
        threads: int | None = None,
        device: Device = CPU,
        lean: bool = False,
        emulated: bool = False,
    ) -> None:
        """Open a graph and compare its inputs and outputs with the contract.

        threads: of one operator; None leaves the number to ONNX Runtime (one per physical core).
        lean: run the graph as it lies in the file; see `lean_options`.  emulated: for EMULATED_PRECISIONS.
        Raises DependencyError (no ONNX Runtime), IntegrityError (no valid graph), IncompatibleError (another
        contract, or an operator that this ONNX Runtime does not know), ResourceError, UsageError (GPU or threads).
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}; at least 1 is needed")
        self.spec = spec
        self.backend = f"onnxruntime-{device.backend}"
        self._runtime = load_library()
        options = lean_options(self._runtime) if lean else self._runtime.SessionOptions()
        quantization_options(options, emulated=emulated)
        options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
        if threads is not None:
            options.intra_op_num_threads = threads
        is_recurrent = any(tensor.name in STATE_NAMES for tensor in spec.inputs)
        self._session, with_graph = _open_session(self._runtime, path, options, device, with_graph=is_recurrent)
        differences = list(_contract_differences(self._session, spec))
        if differences:
            raise IncompatibleError(
                f"{path}: the graph is not as the contract says: {'; '.join(differences)}",
                hint="build the bundle again with this version of aurora-export",
            )
        self._pool = None
        self._run_options = self._runtime.RunOptions()
        if with_graph:  # arrays of the moment have no addresses that could be captured
            self._run_options.add_run_config_entry(GRAPH_ID, NO_GRAPH)
        if device.backend == "cuda" and is_recurrent:
            self._pool = BufferPool(
                lambda number: Buffers(
                    self._runtime,
                    self._session,
                    spec,
                    device.index,
                    (str(2 * number + 1), str(2 * number + 2)) if with_graph else None,
                )
            )
        _log.debug("opened %s on %s, threads: %s", path, self.backend, threads or "automatic")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs for all inputs, by the names of the contract; inputs of batch, frames and tokens as given."""
        names = [output.name for output in self.spec.outputs]
        with _memory_errors_translated():
            arrays = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
            values = self._session.run(names, arrays, self._run_options)
        return dict(zip(names, values, strict=True))

    def open_loop(self) -> Loop:
        """A new recurrence over this graph, its state zero."""
        if self._pool is not None:
            return OnnxCudaLoop(self._pool)
        return OnnxLoop(self._runtime, self._session, self.spec)


class OnnxLoop:
    """A recurrence over the language graph: two sets of state buffers, read and written in turn.

    Nothing but the embeddings is allocated in a step: each direction between the two sets has a binding made
    once, and the outputs land in the buffers that the next step reads.
    """

    def __init__(self, runtime: Any, session: Any, spec: GraphSpec) -> None:
        """Allocate both sets of buffers, all zero."""
        self._runtime, self._session = runtime, session
        self._logits = np.zeros(spec["logits"].resolve(B=1), np.float32)
        self._sets = [{name: np.zeros(spec[name].resolve(B=1), np.float32) for name in STATE_NAMES} for _ in range(2)]
        self._current = 0
        self._bindings = [self._bind(source, target) for source, target in (self._sets, self._sets[::-1])]

    def _bind(self, source: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> Any:
        """A binding that reads one set of state buffers and writes the other."""
        binding = self._session.io_binding()
        for name in STATE_NAMES:
            binding.bind_ortvalue_input(name, self._value(source[name]))
            binding.bind_ortvalue_output(f"next_{name}", self._value(target[name]))
        binding.bind_ortvalue_output("logits", self._value(self._logits))
        return binding

    def _value(self, array: np.ndarray) -> Any:
        """An OrtValue on the memory of the array itself."""
        return self._runtime.OrtValue.ortvalue_from_numpy(array)

    def advance(self, embeddings: np.ndarray) -> np.ndarray:
        """Run T tokens and move the state on; see `engine.Loop`."""
        if not 1 <= len(embeddings) <= MAX_CHUNK_TOKENS:
            raise ValueError(f"{len(embeddings)} tokens in one run; 1 to {MAX_CHUNK_TOKENS} are possible")
        binding = self._bindings[self._current]
        with _memory_errors_translated():
            binding.bind_ortvalue_input("embeddings", self._value(np.ascontiguousarray(embeddings[None])))
            self._session.run_with_iobinding(binding)
        self._current = 1 - self._current
        return self._logits[0]

    def feed(self, embeddings: np.ndarray) -> None:
        """As `advance`, without the logits."""
        self.advance(embeddings)

    def read_state(self) -> dict[str, np.ndarray]:
        """Copies of the state arrays by name, of batch 1."""
        return {name: array.copy() for name, array in self._sets[self._current].items()}

    def write_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from another state; the arrays are copied."""
        for name, array in self._sets[self._current].items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise ValueError(
                    f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {array.dtype} {array.shape}"
                )
            np.copyto(array, arrays[name])


def lean_options(runtime: Any) -> Any:
    """Session options for the least memory: weights stay mapped, in the type that they have in the file.

    On a CPU float16 weights are otherwise widened once and kept, at twice their size. Here they are widened one by one
    when they are used; in priority order, because in the default order all those Casts, which wait for nothing, run
    before anything else. A run then takes seconds where it took a fraction of one: for comparisons, not for answers.
    """
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = runtime.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = False
    return options


def quantization_options(options: Any, *, emulated: bool) -> None:
    """Let a session compute what QuantizeLinear and DequantizeLinear say, neither more nor less.

    By itself ONNX Runtime would round the activations of layers too whose weights alone are quantized, and would fuse
    products of 8-bit floats into operators that it has for integers only.
    """
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if emulated:
        options.add_session_config_entry("session.disable_quant_qdq", "1")


def _open_session(runtime: Any, path: Path, options: Any, device: Device, *, with_graph: bool) -> tuple[Any, bool]:
    """A session, and whether its runs can be captured into CUDA graphs; with_graph: whether that is wanted."""
    options.log_severity_level = ERRORS_ONLY
    if device.backend == "cuda":
        check_provider(runtime, device.index)
        register_cuda_operators(options)
    else:
        register_operators(options)
    state = runtime.capi.onnxruntime_pybind11_state

    def open_with(providers: list[Any]) -> Any:
        return runtime.InferenceSession(str(path), options, providers=providers)

    try:
        if device.backend == "cuda":
            return open_session(open_with, device.index, with_graph=with_graph)
        return open_with([CPU_PROVIDER]), False
    except AuroraError:
        raise
    except state.NotImplemented as error:
        raise IncompatibleError(
            f"{path}: ONNX Runtime {runtime.__version__} lacks an operator of this graph: {_first_line(error)}",
            hint="pip install --upgrade onnxruntime",
        ) from error
    except Exception as error:
        if _is_out_of_memory(error):
            raise _out_of_memory(error) from error
        raise IntegrityError(
            f"{path}: ONNX Runtime cannot open this graph: {_first_line(error)}", hint="build the bundle again"
        ) from error


def register_operators(options: Any) -> Path | None:
    """Give a session the native operators, if they were built: they replace the functions of the same names in a graph.

    options: onnxruntime.SessionOptions.  Returns the library's path, or None where the functions will run.
    Raises UsageError (an instruction set is asked for that is not to be had), IncompatibleError (a broken library).
    """
    path = library_path()
    if path is None:
        return None
    try:
        chosen_level(path)
        options.register_custom_ops_library(str(path))
    except ValueError as error:
        raise UsageError(str(error), hint=f"unset {LEVEL}") from error
    except Exception as error:
        raise IncompatibleError(
            f"{path}: ONNX Runtime cannot use this library: {_first_line(error)}",
            hint=f"install aurora-export again to build it anew, or set {SWITCH}=off to run without",
        ) from error
    return path


def _contract_differences(session: Any, spec: GraphSpec) -> Iterator[str]:
    """What the opened graph has otherwise than the contract; a free dimension must be free in both."""
    for kind, expected, found in (
        ("input", spec.inputs, session.get_inputs()),
        ("output", spec.outputs, session.get_outputs()),
    ):
        in_graph = {argument.name: argument for argument in found}
        for tensor in expected:
            argument = in_graph.pop(tensor.name, None)
            if argument is None:
                yield f"{kind} {tensor.name} is missing"
            elif not _agrees(tensor, argument):
                yield (
                    f"{kind} {tensor.name} is {argument.type} {_shape_text(argument.shape)}, "
                    f"expected tensor({_onnx_type(tensor)}) {_shape_text(tensor.shape)}"
                )
        yield from (f"{kind} {name} is unknown" for name in in_graph)


def _agrees(tensor: TensorSpec, argument: Any) -> bool:
    if argument.type != f"tensor({_onnx_type(tensor)})" or len(argument.shape) != len(tensor.shape):
        return False
    pairs = zip(tensor.shape, argument.shape, strict=True)
    return all(not isinstance(found, int) if isinstance(size, str) else found == size for size, found in pairs)


def _onnx_type(tensor: TensorSpec) -> str:
    return {"float32": "float"}.get(tensor.dtype, tensor.dtype)


def _shape_text(shape: Any) -> str:
    return "[" + ", ".join(str(entry) for entry in shape) + "]"


@contextmanager
def _memory_errors_translated() -> Iterator[None]:
    """Turn a failed allocation inside ONNX Runtime into a ResourceError; anything else stays as it is."""
    try:
        yield
    except Exception as error:
        if _is_out_of_memory(error):
            raise _out_of_memory(error) from error
        raise


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or "bad_alloc" in text
        or "failed to allocate memory" in text
        or ("cuda" in text and "out of memory" in text)
    )


def _out_of_memory(error: Exception) -> ResourceError:
    return ResourceError(
        f"ONNX Runtime ran out of memory: {_first_line(error)}", hint="close other programs, or use a smaller model"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
