"""TensorRT and TensorRT-RTX as installed: opened once, on one GPU, after the driver was asked."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from aurora_export.errors import DependencyError, IncompatibleError
from aurora_export.nvidia_driver import Gpu, gpu
from aurora_export.plugins.cuda import BUILD, TENSORRT_LIBRARY, library_path
from aurora_export.runtime.cuda_memory import Cuda

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """One of NVIDIA's two: their interfaces in Python are the same, their engines are not."""

    title: str
    """for messages"""
    package: str
    """its module, and the key of its version in the manifest"""
    install: str
    has_plugins: bool

    def build_command(self, bundle: Path, target: str, on: Gpu) -> str:
        """What builds engines for a GPU; TensorRT's are built on it, TensorRT-RTX's for it, anywhere."""
        command = f"aurora-export build {bundle} --target {target}"
        if self.has_plugins:
            return f"{command}   (on this device)"
        return f"{command} --compute-capability {on.compute_capability}"


PRODUCTS = {
    "tensorrt": Product(
        "TensorRT",
        "tensorrt",
        "a Jetson has it (JetPack); elsewhere pip install tensorrt; see docs/DEVICES.md",
        has_plugins=True,
    ),
    "tensorrt-rtx": Product(
        "TensorRT-RTX", "tensorrt_rtx", "pip install 'aurora-export[tensorrt,tensorrt-rtx]'", has_plugins=False
    ),
}
"""By the name of the device, which is that of a build's target too."""


class TensorRt:
    """The library, on one GPU: made once, shared by the engines of a bundle."""

    def __init__(self, index: int, device: str = "tensorrt") -> None:
        """index: of the GPU.  device: a key of PRODUCTS.

        Raises DependencyError (driver, library, cuda-python or plugins) or UsageError (GPU).
        """
        self.device, self.product = device, PRODUCTS[device]
        title, package = self.product.title, self.product.package
        self.gpu = gpu(index)  # before anything of TensorRT: without a driver its objects crash
        try:
            self.module = import_module(package)
        except ImportError as error:
            raise DependencyError(f"{title} cannot be imported: {error}", hint=self.product.install) from error
        self.cuda = Cuda(index)
        self.version: str = self.module.__version__
        self.logger = _logger(self.module, title)
        if self.product.has_plugins:
            self._load_plugins()
        self.cuda.use()
        self.runtime = self.module.Runtime(self.logger)

    def _load_plugins(self) -> None:
        path = library_path(TENSORRT_LIBRARY)
        if path is not None and self.module.get_plugin_registry().load_library(str(path)) is None:
            raise IncompatibleError(f"{path}: {self.product.title} {self.version} does not load it", hint=BUILD)

    def deserialize(self, path: Path) -> Any:
        """An engine. Raises IncompatibleError with the library's own words."""
        engine = self.runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            words = self.logger.last or "no reason given"
            hint = "build it again"
            if self.product.has_plugins:
                hint = f"build it again on this device; without the plugins nothing opens: {BUILD}"
            raise IncompatibleError(f"{path}: {self.product.title} {self.version} does not open it: {words}", hint=hint)
        return engine


def _logger(trt: Any, title: str) -> Any:
    """Passes the library's words on, and keeps the last error."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.last = message
            _log.debug("%s: %s", title, message)

    return Logger()
