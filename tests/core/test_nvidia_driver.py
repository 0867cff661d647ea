"""The driver's own library, as a few lines of C stand in for it."""

from __future__ import annotations

import subprocess

import pytest

from aurora_export import nvidia_driver
from aurora_export.errors import DependencyError, UsageError
from aurora_export.nvidia_driver import Gpu, gpu, gpus

SOURCE = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return flags == 0 ? INIT : 1; }
int cuDriverGetVersion(int* version) { *version = 13010; return 0; }
int cuDeviceGetCount(int* count) { *count = COUNT; return 0; }
int cuDeviceGet(int* device, int index) { *device = 40 + index; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
  strncpy(name, device == 40 ? "Orin" : "Thor", (size_t)size);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = device == 40 ? (attribute == 75 ? 8 : 7) : (attribute == 75 ? 11 : 0);
  return attribute == 75 || attribute == 76 ? ATTRIBUTE : 1;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (size_t)(device - 39) << 33; return 0; }
int cuGetErrorName(int code, const char** name) { *name = code == 999 ? "CUDA_ERROR_UNKNOWN" : 0; return 0; }
"""


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Compile a driver that answers like this, and put it in the real one's place."""

    def make(*, init: int = 0, count: int = 2, attribute: int = 0) -> None:
        path = tmp_path / f"libcuda_{init}_{count}_{attribute}.so"
        flags = [f"-DINIT={init}", f"-DCOUNT={count}", f"-DATTRIBUTE={attribute}", "-shared", "-fPIC", "-xc", "-"]
        subprocess.run(["gcc", *flags, "-o", str(path)], input=SOURCE, text=True, check=True)
        monkeypatch.setattr(nvidia_driver, "LIBRARY", str(path))

    return make


def test_gpus_as_the_driver_describes_them(driver):
    driver()
    assert gpus() == (Gpu(0, "Orin", "8.7", 2**33, "13.1"), Gpu(1, "Thor", "11.0", 2**34, "13.1"))
    assert gpu(1).name == "Thor"
    with pytest.raises(UsageError, match="there is no GPU 2") as caught:
        gpu(2)
    assert caught.value.hint == "there are: 0 (Orin), 1 (Thor)"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"init": 100}, "sees no GPU"),
        ({"count": 0}, "sees no GPU"),
        ({"init": 999}, "does not start: CUDA_ERROR_UNKNOWN"),
        ({"init": 3}, "does not start: error 3"),
        ({"attribute": 999}, "GPU 0 does not answer: CUDA_ERROR_UNKNOWN"),
    ],
)
def test_what_is_wrong_is_named(driver, answers, message):
    driver(**answers)
    with pytest.raises(DependencyError, match=message):
        gpus()


def test_no_driver(monkeypatch):
    monkeypatch.setattr(nvidia_driver, "LIBRARY", "libno_such_driver.so.1")
    with pytest.raises(DependencyError, match="no NVIDIA driver: libno_such_driver"):
        gpus()
