"""Memory, streams and graphs of CUDA with lifetimes of Python objects, over NVIDIA's cuda-python; no torch.

Everything is freed with its object, and CUDA waits for the GPU before it frees memory. Never run on a GPU so far.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from aurora_export.errors import DependencyError, ResourceError

INSTALL_CUDA_PYTHON = "pip install 'aurora-export[tensorrt]', of the major version of the CUDA that is installed"
OUT_OF_MEMORY = "cudaErrorMemoryAllocation"


class Cuda:
    """The functions of the CUDA runtime that are used here, on one GPU, with errors turned into exceptions."""

    def __init__(self, index: int) -> None:
        """index: of the GPU. Raises DependencyError without cuda-python."""
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise DependencyError(f"cuda-python cannot be imported: {error}", hint=INSTALL_CUDA_PYTHON) from error
        self.runtime, self.index = runtime, index
        self.to_device = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.to_host = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function by name; returns its result, if it has one.

        Raises ResourceError if memory ran out, RuntimeError with CUDA's words for any other error.
        """
        error, *results = getattr(self.runtime, name)(*arguments)
        if error != self.runtime.cudaError_t.cudaSuccess:
            if error == getattr(self.runtime.cudaError_t, OUT_OF_MEMORY):
                raise ResourceError("the GPU's memory ran out", hint="close other programs, or use a smaller model")
            words = self.runtime.cudaGetErrorString(error)[1]
            raise RuntimeError(f"{name}: {words.decode() if isinstance(words, bytes) else words}")
        return results[0] if results else None

    def use(self) -> None:
        """Make this GPU the calling thread's."""
        self.call("cudaSetDevice", self.index)

    def releaser(self, name: str, handle: Any) -> Callable[[], None]:
        """A function that frees something. An error then has nobody to go to; the GPU's context may be gone already."""

        def release() -> None:
            getattr(self.runtime, name)(handle)

        return release


class DeviceArray:
    """Memory on the GPU, its content arbitrary."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self.n_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.address = int(cuda.call("cudaMalloc", max(self.n_bytes, 1)))
        weakref.finalize(self, cuda.releaser("cudaFree", self.address))


class PinnedArray:
    """Memory of the host that the GPU reads and writes by itself, as a numpy array."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...], dtype: str) -> None:
        n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        self.address = int(cuda.call("cudaHostAlloc", n_bytes, cuda.runtime.cudaHostAllocDefault))
        memory = (ctypes.c_ubyte * n_bytes).from_address(self.address)
        self.array: np.ndarray = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
        weakref.finalize(self, cuda.releaser("cudaFreeHost", self.address))


class Event:
    """A point in a stream that can be waited for."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cudaEventCreateWithFlags", cuda.runtime.cudaEventDisableTiming)
        weakref.finalize(self, cuda.releaser("cudaEventDestroy", self.handle))

    def wait(self) -> None:
        """Until the stream has passed it; at once if it was never put into one."""
        self._cuda.call("cudaEventSynchronize", self.handle)


class Stream:
    """Work that is done in order, beside that of other streams."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cudaStreamCreateWithFlags", cuda.runtime.cudaStreamNonBlocking)
        weakref.finalize(self, cuda.releaser("cudaStreamDestroy", self.handle))

    def copy_in(self, target: DeviceArray, source: int, n_bytes: int) -> None:
        """Enqueue a copy from an address of the host."""
        self._cuda.call("cudaMemcpyAsync", target.address, source, n_bytes, self._cuda.to_device, self.handle)

    def copy_out(self, target: int, source: DeviceArray, n_bytes: int) -> None:
        """Enqueue a copy to an address of the host."""
        self._cuda.call("cudaMemcpyAsync", target, source.address, n_bytes, self._cuda.to_host, self.handle)

    def record(self, event: Event) -> None:
        """Put an event behind what was enqueued so far."""
        self._cuda.call("cudaEventRecord", event.handle, self.handle)

    def wait(self) -> None:
        """Until everything is done."""
        self._cuda.call("cudaStreamSynchronize", self.handle)

    def capture(self, enqueue: Callable[[], None]) -> CapturedWork:
        """What `enqueue` puts into this stream, to be put there again at once. It is not run now.

        Raises RuntimeError if something of it cannot be captured; the stream is as before then.
        """
        mode = self._cuda.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda.call("cudaStreamBeginCapture", self.handle, mode)
        try:
            enqueue()
        except BaseException:
            self._cuda.runtime.cudaStreamEndCapture(self.handle)
            raise
        graph = self._cuda.call("cudaStreamEndCapture", self.handle)
        try:
            executable = self._cuda.call("cudaGraphInstantiate", graph, 0)
        finally:
            self._cuda.call("cudaGraphDestroy", graph)
        return CapturedWork(self._cuda, executable)

    def launch(self, work: CapturedWork) -> None:
        """Enqueue captured work."""
        self._cuda.call("cudaGraphLaunch", work.handle, self.handle)


class CapturedWork:
    """A CUDA graph, ready to be launched."""

    def __init__(self, cuda: Cuda, handle: Any) -> None:
        self.handle = handle
        weakref.finalize(self, cuda.releaser("cudaGraphExecDestroy", handle))
