"""A library in the place of NVIDIA's driver, of a few lines of C: GPU 0 is an Orin, GPU 1 a Thor."""

from __future__ import annotations

import subprocess
from pathlib import Path

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


def write_driver(folder: Path, *, init: int = 0, count: int = 2, attribute: int = 0) -> Path:
    """Compile libcuda.so.1 into a folder, with the answers of some of its functions."""
    path = folder / "libcuda.so.1"
    flags = [f"-DINIT={init}", f"-DCOUNT={count}", f"-DATTRIBUTE={attribute}", "-shared", "-fPIC", "-xc", "-"]
    subprocess.run(["gcc", *flags, "-o", str(path)], input=SOURCE, text=True, check=True)
    return path
