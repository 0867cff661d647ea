"""Stands in the place of TensorRT-RTX, as tensorrt.py in TensorRT's: the same interface, no plugins, other engines."""

from __future__ import annotations

import tensorrt
from tensorrt import DataType, ILogger, TensorIOMode

__all__ = ["DataType", "ILogger", "Runtime", "TensorIOMode"]
__version__ = "1.7.1.116"


class Runtime(tensorrt.Runtime):
    version = __version__
