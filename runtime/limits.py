"""What this machine can do at most: plain reads of memory, and products in registers, by as many threads as asked for.

The native library has a function for each; where it is missing, numpy reads and multiplies, which is lower and said.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from aurora_export.plugins.cpu import library_path

BUFFER_BYTES = 384 * 2**20
"""Read by all threads together: over ten times the caches of common machines."""

N_ROUNDS = 5
CALIBRATION_ROUNDS = 200_000
PRODUCTS_S = 0.03
"""Length of one measurement of products."""

N_MATRIX = 1024
"""Side of the matrices that numpy multiplies."""


@dataclass(frozen=True)
class Limits:
    """Peaks of the machine; None where nothing here can measure it."""

    read_gb_per_s: float
    int8_gop_per_s: float | None
    fp32_gop_per_s: float | None
    by: str
    """native, or numpy: whose functions measured"""

    def or_better(self, other: Limits) -> Limits:
        """The higher of two measurements: a busy moment lowers a peak, nothing raises it."""
        return Limits(
            max(self.read_gb_per_s, other.read_gb_per_s),
            _highest(self.int8_gop_per_s, other.int8_gop_per_s),
            _highest(self.fp32_gop_per_s, other.fp32_gop_per_s),
            self.by,
        )


class LimitsMeter:
    """Measures the limits again and again, on one buffer of memory. Close it, or use it as a context manager."""

    def __init__(self, n_threads: int) -> None:
        """Allocate the buffer: BUFFER_BYTES. MemoryError if there is no room."""
        self._n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads)
        self._parts = np.array_split(np.ones(BUFFER_BYTES, np.uint8), n_threads)
        self._functions = _native_functions()

    def __enter__(self) -> LimitsMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory and the threads back."""
        self._parts = []
        self._pool.shutdown()

    def measure(self) -> Limits:
        """Median of N_ROUNDS for each limit; about half a second."""
        if self._functions is None:
            return Limits(self._rate(_numpy_read, self._parts), None, self._numpy_products(), "numpy")
        read, int8, fp32 = self._functions
        reads = self._rate(lambda part: read(part.ctypes.data, part.nbytes), self._parts)
        return Limits(reads, self._products(int8), self._products(fp32), "native")

    def _rate(self, work: Callable[[np.ndarray], object], parts: list[np.ndarray]) -> float:
        """GB/s of work on all parts at once."""
        n_bytes = sum(part.nbytes for part in parts)
        return round(n_bytes / self._seconds(lambda i: work(parts[i])) / 1e9, 2)

    def _products(self, multiply: Callable[[int], float]) -> float | None:
        """Gop/s of all threads; None if the machine has no such instruction."""
        began = time.perf_counter()
        operations = multiply(CALIBRATION_ROUNDS)
        if not operations:
            return None
        n = max(1, int(CALIBRATION_ROUNDS * PRODUCTS_S / (time.perf_counter() - began)))
        per_thread = operations / CALIBRATION_ROUNDS * n
        return round(per_thread * self._n_threads / self._seconds(lambda _: multiply(n)) / 1e9, 1)

    def _numpy_products(self) -> float:
        """Gop/s of one product of matrices, on the threads of numpy's own library."""
        a = np.ones((N_MATRIX, N_MATRIX), np.float32)
        seconds = []
        for _ in range(N_ROUNDS + 1):
            began = time.perf_counter()
            a @ a
            seconds.append(time.perf_counter() - began)
        return round(2 * N_MATRIX**3 / statistics.median(seconds[1:]) / 1e9, 1)

    def _seconds(self, work: Callable[[int], object]) -> float:
        """Median time until all threads have done their work."""
        found = []
        for _ in range(N_ROUNDS):
            began = time.perf_counter()
            list(self._pool.map(work, range(self._n_threads)))
            found.append(time.perf_counter() - began)
        return statistics.median(found)


def _numpy_read(part: np.ndarray) -> int:
    """Sum of 64-bit numbers, without the last bytes that make no whole one."""
    return int(part[: part.nbytes // 8 * 8].view(np.uint64).sum())


def _native_functions() -> tuple[Callable[[int, int], int], Callable[[int], float], Callable[[int], float]] | None:
    """Read, 8-bit products and float32 products of the library; None where it is missing, switched off or older."""
    path = library_path()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        read = library.aurora_cpu_read
        int8, fp32 = library.aurora_cpu_int8_products, library.aurora_cpu_fp32_products
    except (OSError, AttributeError):
        return None
    read.restype, read.argtypes = ctypes.c_uint64, (ctypes.c_void_p, ctypes.c_size_t)
    for products in (int8, fp32):
        products.restype, products.argtypes = ctypes.c_double, (ctypes.c_int64,)
    return read, int8, fp32


def _highest(*values: float | None) -> float | None:
    return max((value for value in values if value is not None), default=None)
