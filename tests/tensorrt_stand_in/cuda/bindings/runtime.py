"""Stands in the place of cuda-python: a GPU whose streams do nothing until somebody waits for them.

What is enqueued runs at the last moment that CUDA allows: an array that is filled again too early, or read before its
stream was waited for, gives wrong numbers. Addresses of the device are no addresses of the host. `calls` says what was
enqueued, and when somebody waited for a whole stream.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

cudaError_t = enum.IntEnum(  # noqa: N816 - its name there
    "cudaError_t",
    {"cudaSuccess": 0, "cudaErrorInvalidValue": 1, "cudaErrorMemoryAllocation": 2, "cudaErrorUnknown": 999},
)
cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N816
cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N816
cudaHostAllocDefault, cudaStreamNonBlocking, cudaEventDisableTiming = 0, 1, 2  # noqa: N816

OK = cudaError_t.cudaSuccess
calls: list[str] = []
device_memory: dict[int, np.ndarray] = {}
pinned_memory: dict[int, np.ndarray] = {}
streams: dict[int, Stream] = {}
events: dict[int, Stream | None] = {}
graphs: dict[int, list[Work]] = {}
limits = SimpleNamespace(device_bytes=None, can_capture=True)
"""What this GPU cannot do; a test may change it."""

Work = tuple[str, Callable[[], None]]
_handles = itertools.count(1)
_addresses = itertools.count(1 << 44, 1 << 30)


class Stream:
    def __init__(self) -> None:
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None

    def run(self, until: str | None = None) -> None:
        while self.queue:
            name, work = self.queue.pop(0)
            work()
            if name == until:
                return


def enqueue(stream: int, work: Callable[[], None], name: str) -> None:
    """For the TensorRT stand-in too."""
    calls.append(name)
    found = streams[stream]
    (found.queue if found.captured is None else found.captured).append((name, work))


def device_array(address: int, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The memory at an address of the device."""
    memory = device_memory[address]  # KeyError: freed, or no address of the device
    return memory[: int(np.prod(shape)) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)


def cudaSetDevice(index: int) -> tuple[Any]:  # noqa: N802 - the names are CUDA's, here and below
    return (OK if index >= 0 else cudaError_t.cudaErrorInvalidValue,)


def cudaGetErrorString(error: Any) -> tuple[Any, bytes]:  # noqa: N802
    return OK, error.name.encode()


def cudaMalloc(n_bytes: int) -> tuple[Any, Any]:  # noqa: N802
    used = sum(len(memory) for memory in device_memory.values())
    if limits.device_bytes is not None and used + n_bytes > limits.device_bytes:
        return cudaError_t.cudaErrorMemoryAllocation, None
    address = next(_addresses)
    device_memory[address] = np.full(n_bytes, 0xFF, np.uint8)  # NaN
    return OK, address


def cudaFree(address: int) -> tuple[Any]:  # noqa: N802
    for stream in streams.values():
        stream.run()  # CUDA waits before it frees
    del device_memory[address]
    return (OK,)


def cudaHostAlloc(n_bytes: int, flags: int) -> tuple[Any, Any]:  # noqa: N802
    memory = np.full(n_bytes, 0xFF, np.uint8)
    pinned_memory[memory.ctypes.data] = memory
    return OK, memory.ctypes.data


def cudaFreeHost(address: int) -> tuple[Any]:  # noqa: N802
    for stream in streams.values():
        stream.run()
    del pinned_memory[address]
    return (OK,)


def cudaMemcpyAsync(target: int, source: int, n_bytes: int, kind: int, stream: int) -> tuple[Any]:  # noqa: N802
    to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice

    def copy() -> None:
        memory = device_memory[target if to_device else source]
        assert n_bytes <= len(memory)
        address = memory.ctypes.data
        ctypes.memmove(address if to_device else target, source if to_device else address, n_bytes)

    enqueue(stream, copy, "copy in" if to_device else "copy out")
    return (OK,)


def cudaStreamCreateWithFlags(flags: int) -> tuple[Any, int]:  # noqa: N802
    handle = next(_handles)
    streams[handle] = Stream()
    return OK, handle


def cudaStreamDestroy(stream: int) -> tuple[Any]:  # noqa: N802
    del streams[stream]
    return (OK,)


def cudaStreamSynchronize(stream: int) -> tuple[Any]:  # noqa: N802
    calls.append("wait")
    streams[stream].run()
    return (OK,)


def cudaEventCreateWithFlags(flags: int) -> tuple[Any, int]:  # noqa: N802
    handle = next(_handles)
    events[handle] = None
    return OK, handle


def cudaEventDestroy(event: int) -> tuple[Any]:  # noqa: N802
    del events[event]
    return (OK,)


def cudaEventRecord(event: int, stream: int) -> tuple[Any]:  # noqa: N802
    events[event] = streams[stream]
    name = f"event {event}"
    streams[stream].queue = [(n, w) for n, w in streams[stream].queue if n != name]  # an older record counts no more
    streams[stream].queue.append((name, lambda: None))
    return (OK,)


def cudaEventSynchronize(event: int) -> tuple[Any]:  # noqa: N802
    stream, name = events[event], f"event {event}"
    if stream is not None and any(queued == name for queued, _ in stream.queue):
        stream.run(until=name)
    return (OK,)


def cudaStreamBeginCapture(stream: int, mode: int) -> tuple[Any]:  # noqa: N802
    streams[stream].captured = []
    return (OK,)


def cudaStreamEndCapture(stream: int) -> tuple[Any, Any]:  # noqa: N802
    work, streams[stream].captured = streams[stream].captured, None
    if not limits.can_capture:
        return cudaError_t.cudaErrorUnknown, None
    assert work is not None
    handle = next(_handles)
    graphs[handle] = work
    return OK, handle


def cudaGraphInstantiate(graph: int, flags: int) -> tuple[Any, int]:  # noqa: N802
    handle = next(_handles)
    graphs[handle] = graphs[graph]
    return OK, handle


def cudaGraphDestroy(graph: int) -> tuple[Any]:  # noqa: N802
    del graphs[graph]
    return (OK,)


def cudaGraphExecDestroy(graph: int) -> tuple[Any]:  # noqa: N802
    del graphs[graph]
    return (OK,)


def cudaGraphLaunch(graph: int, stream: int) -> tuple[Any]:  # noqa: N802
    work = list(graphs[graph])
    enqueue(stream, lambda: [step() for _, step in work], "launch")
    return (OK,)
