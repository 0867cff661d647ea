from __future__ import annotations

import threading

import numpy as np
import pytest

from aurora_export.plugins.cpu import SWITCH, library_path
from aurora_export.runtime import limits
from aurora_export.runtime.limits import Limits, LimitsMeter


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(limits, "BUFFER_BYTES", 2**24)


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("switch", ["", "off"])
def test_limits_of_this_machine(switch, n_threads, monkeypatch):
    monkeypatch.setenv(SWITCH, switch)
    before = set(threading.enumerate())
    with LimitsMeter(n_threads) as meter:
        found = meter.measure()
    assert found.by == ("native" if library_path() else "numpy")
    assert 0.1 < found.read_gb_per_s < 10_000
    assert found.fp32_gop_per_s is None or 0.1 < found.fp32_gop_per_s < 100_000
    if found.by == "numpy":
        assert found.int8_gop_per_s is None
    assert set(threading.enumerate()) <= before


@pytest.mark.skipif(library_path() is None, reason="the native library was not built")
def test_the_native_functions_count_what_they_do():
    read, int8, fp32 = limits._native_functions()
    numbers = np.arange(1000, dtype=np.uint64)
    assert read(numbers.ctypes.data, numbers.nbytes) == numbers[: numbers.nbytes // 256 * 32].sum()
    assert int8(1) in (12 * 128, 12 * 64, 12 * 32, 0)  # 12 sums of 64, 32 or 16 bytes, two operations each
    assert fp32(1) in (12 * 32, 12 * 16, 12 * 8, 0)
    for products in (int8, fp32):
        assert products(20) == 2 * products(10)
        assert products(0) == 0


def test_an_older_library_has_no_such_functions(monkeypatch):
    monkeypatch.setattr(limits, "library_path", lambda: "libc.so.6")
    assert limits._native_functions() is None


def test_the_higher_of_two_measurements():
    a, b = Limits(3, None, 5, "native"), Limits(2, 7, 6, "native")
    assert a.or_better(b) == Limits(3, 7, 6, "native")
