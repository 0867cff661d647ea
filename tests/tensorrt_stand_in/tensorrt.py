"""Stands in the place of TensorRT: what its public API reference says of each version, as far as this project uses it.

AURORA_TEST_TENSORRT is the version, 10.3.0 if it is not set. An engine is the ONNX graph itself, with its weights and
what the configuration asked for; a context runs it in ONNX Runtime, over the memory of the CUDA stand-in beside this.
What a version lacks raises AttributeError, and what TensorRT refuses is refused. It never ran beside the real one.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

__version__ = os.environ.get("AURORA_TEST_TENSORRT", "10.3.0")
_VERSION = tuple(int(part) for part in __version__.split(".")[:2])
_plugins: set[str] = set()


def _driver() -> ctypes.CDLL:
    """Without a driver the real objects look alive, and crash."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        os.abort()


def _capability() -> str:
    library, values = _driver(), []
    for attribute in (75, 76):
        value = ctypes.c_int()
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, 40)
        values.append(str(value.value))
    return ".".join(values)


class ILogger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1, WARNING=2, INFO=3, VERBOSE=4)

    def __init__(self) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        pass


NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE", TACTIC_DRAM="TACTIC_DRAM")
BuilderFlag = SimpleNamespace(
    **{name: name for name in ("TF32", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", "REFIT", "DEBUG")}
)
HardwareCompatibilityLevel = SimpleNamespace(NONE="NONE", AMPERE_PLUS="AMPERE_PLUS")
TensorIOMode = SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT")
DataType = SimpleNamespace(FLOAT="FLOAT", HALF="HALF", INT32="INT32", UINT8="UINT8")
if _VERSION < (11, 0):
    NetworkDefinitionCreationFlag.EXPLICIT_BATCH = 0
    BuilderFlag.FP16, BuilderFlag.INT8 = "FP16", "INT8"
if _VERSION >= (10, 13):
    HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY = "SAME_COMPUTE_CAPABILITY"

_TYPES = {1: DataType.FLOAT, 2: DataType.UINT8, 6: DataType.INT32}


class _Registry:
    def load_library(self, path: str) -> Any:
        try:
            library = ctypes.CDLL(path)
        except OSError:
            return None
        _plugins.update(("Wkv6", "Wkv7"))
        return library


def get_plugin_registry() -> _Registry:
    return _Registry()


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[list[int]]] = {}

    def set_shape(self, name: str, least: list[int], usual: list[int], most: list[int]) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))
        self.shapes[name] = [list(least), list(usual), list(most)]


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> bytes:
        return f"timing of {_capability()}".encode()


class _Config:
    def __init__(self) -> None:
        self.flags, self.limits = {"TF32"}, dict[str, int]()
        self.profiles: list[_Profile] = []
        self.progress_monitor: Any = None
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = "NONE"
        self.cache: _TimingCache | None = None

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, n_bytes: int) -> None:
        self.limits[pool] = n_bytes

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content not in (b"", cache.serialize()) and not ignore_mismatch:
            return False
        self.cache = cache
        return True


class _Network:
    model: onnx.ModelProto


class Builder:
    def __init__(self, logger: ILogger) -> None:
        _driver()
        self.logger = logger

    def create_network(self, flags: int) -> _Network:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        model = network.model
        for value in model.graph.input:
            rank = len(value.type.tensor_type.shape.dim)
            for profile in config.profiles:
                if [len(shape) for shape in profile.shapes.get(value.name, [])] != [rank] * 3:
                    self.logger.log(ILogger.Severity.ERROR, f"{value.name}: no shape in a profile")
                    return None
        config.progress_monitor.phase_start("Building", None, 2)
        for step in range(2):
            assert config.progress_monitor.step_complete("Building", step) is True
        config.progress_monitor.phase_finish("Building")
        described = {
            "version": __version__,
            "capability": _capability(),
            "flags": sorted(config.flags),
            "limits": config.limits,
            "optimization_level": config.builder_optimization_level,
            "hardware": config.hardware_compatibility_level,
            "cache": config.cache.content.decode() if config.cache else None,
            "profiles": [profile.shapes for profile in config.profiles],
            "plugins": sorted({node.op_type for node in model.graph.node if node.domain == "aurora"}),
            "opset": next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")),
        }
        return json.dumps(described).encode() + b"\n" + model.SerializeToString()


class OnnxParser:
    def __init__(self, network: _Network, logger: ILogger) -> None:
        self.network, self.errors = network, list[str]()

    @property
    def num_errors(self) -> int:
        return len(self.errors)

    def get_error(self, i: int) -> Any:
        return SimpleNamespace(desc=lambda: self.errors[i])

    def parse_from_file(self, path: str) -> bool:
        folder = Path(path).parent
        model = onnx.load(path, load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}
                with (folder / where["location"]).open("rb") as file:  # onnx itself opens no links
                    file.seek(int(where.get("offset", 0)))
                    tensor.raw_data = file.read(int(where["length"]))
                tensor.data_location = onnx.TensorProto.DEFAULT
                del tensor.external_data[:]
        if _VERSION < (10, 7) and any(function.name in _plugins for function in model.functions):
            self.errors.append("a function was taken in the place of a plugin")
        for node in model.graph.node:
            if node.domain in ("", "ai.onnx"):
                continue
            attributes = {attribute.name: attribute.s.decode() for attribute in node.attribute}
            named = (attributes.get("plugin_namespace"), attributes.get("plugin_version"))
            if node.op_type not in _plugins or named != ("aurora", "1"):
                self.errors.append(f"Plugin not found: {node.op_type}")
        opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if _VERSION <= (10, 3) and opset > 20:
            self.errors.append(f"opset {opset} is not supported")
        self.network.model = model
        return not self.errors


class Runtime:
    version = __version__

    def __init__(self, logger: ILogger) -> None:
        _driver()
        self.logger = logger

    def deserialize_cuda_engine(self, content: bytes) -> Engine | None:
        head, _, model = bytes(content).partition(b"\n")
        try:
            described = json.loads(head)
        except ValueError:
            self.logger.log(ILogger.Severity.ERROR, "the magic tag does not match")
            return None
        if described["version"] != self.version and "VERSION_COMPATIBLE" not in described["flags"]:
            self.logger.log(ILogger.Severity.ERROR, f"the engine is of version {described['version']}")
            return None
        if described["plugins"] and not _plugins:
            self.logger.log(ILogger.Severity.ERROR, "cannot find the plugin creator")
            return None
        return Engine(described, onnx.ModelProto.FromString(model))


class Engine:
    def __init__(self, described: dict[str, Any], model: onnx.ModelProto) -> None:
        import onnxruntime

        self.described = described
        self.inputs = {value.name: value for value in model.graph.input}
        self.outputs = {value.name: value for value in model.graph.output}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        if operators := os.environ.get("AURORA_TEST_OPERATORS"):
            options.register_custom_ops_library(operators)
        self.session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = len(described["profiles"])

    def get_tensor_name(self, i: int) -> str:
        return [*self.inputs, *self.outputs][i]

    def get_tensor_mode(self, name: str) -> str:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def _type(self, name: str) -> Any:
        return {**self.inputs, **self.outputs}[name].type.tensor_type

    def get_tensor_dtype(self, name: str) -> str:
        return _TYPES[self._type(name).elem_type]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in self._type(name).shape.dim)

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    """Shapes and addresses are read when a run is enqueued, arrays when the stream comes to it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        if not 0 <= index < self.engine.num_optimization_profiles:
            return False
        self.profile, self.shapes = index, {}
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "TensorRT takes profile 0 here; we choose it"
        least, _, most = self.engine.described["profiles"][self.profile][name]
        if not all(a <= size <= b for a, size, b in zip(least, shape, most, strict=True)):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = int(address)
        return True

    def execute_async_v3(self, stream: int) -> bool:
        from cuda.bindings import runtime as cuda

        if set(self.shapes) != set(self.engine.inputs):
            return False
        if set(self.addresses) != {*self.engine.inputs, *self.engine.outputs}:
            return False
        shapes, addresses = dict(self.shapes), dict(self.addresses)
        kinds = {DataType.FLOAT: np.float32, DataType.UINT8: np.uint8, DataType.INT32: np.int32}

        def run() -> None:
            inputs = {
                name: cuda.device_array(addresses[name], kinds[self.engine.get_tensor_dtype(name)], shape).copy()
                for name, shape in shapes.items()
            }
            outputs = self.engine.session.run(None, inputs)
            for name, array in zip(self.engine.outputs, outputs, strict=True):
                cuda.device_array(addresses[name], array.dtype, array.shape)[...] = array

        cuda.enqueue(stream, run, f"execute profile {self.profile}")
        return True
