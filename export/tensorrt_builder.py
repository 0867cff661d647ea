"""One engine of TensorRT from one ONNX file, on the GPU that will run it; run as a process of its own.

    python -m aurora_export.export.tensorrt_builder < job.json

For TensorRT 10.3 (JetPack 6) to 11, by what each has: a strongly typed network, whose types are those of the graph;
no calibrator, no precision flag. The driver is asked before any object of TensorRT is made, which would crash without
one. Never run with a builder of TensorRT so far: the tests have a stand-in with the interface of each version.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from aurora_export.errors import AuroraError
from aurora_export.export import rtx_builder
from aurora_export.export.rtx_builder import MAX_ERRORS, Answer, add_profiles, error_logger, peak_bytes
from aurora_export.nvidia_driver import gpu

OLDEST = (10, 3)
SECONDS_BETWEEN_WORDS = 0.5


class Job(rtx_builder.Job):
    """What to build; of the compute capabilities there is one, that of the one GPU that is visible."""

    plugin_library: str
    timing_cache: str
    """read if it is there, and written anew"""
    workspace_bytes: int | None
    """most memory that a layer may take to work in; None leaves it to TensorRT"""
    optimization_level: int | None
    version_compatible: bool
    hardware_compatible: str | None
    """a name of TensorRT's HardwareCompatibilityLevel"""


def main() -> None:
    """Read a job from stdin, write its engine, print the answer."""
    job: Job = json.load(sys.stdin)
    try:
        answer = build(job)
    except AuroraError as error:
        sys.exit(str(error))
    print(json.dumps(answer), flush=True)  # noqa: T201 - what this program is for


def build(job: Job) -> Answer:
    """Parse, build and write one engine. Raises DependencyError where there is no driver."""
    gpu(0)
    import tensorrt as trt

    answer = Answer(version=trt.__version__)
    if version_of(trt) < OLDEST:
        answer["errors"] = [f"{'.'.join(map(str, OLDEST))} is the oldest that this is for"]
        return answer
    logger = error_logger(trt)
    if trt.get_plugin_registry().load_library(job["plugin_library"]) is None:
        answer["errors"] = [*logger.errors[-MAX_ERRORS:], f"{job['plugin_library']} is not loaded"]
        return answer
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    _say("parse")
    started = time.monotonic()
    if not parser.parse_from_file(job["onnx"]):
        answer["errors"] = [parser.get_error(i).desc() for i in range(parser.num_errors)][:MAX_ERRORS]
        return answer
    answer["parse_s"] = round(time.monotonic() - started, 3)
    try:
        config = configure(trt, builder, job)
    except AttributeError as error:
        answer["errors"] = [f"this version lacks {error.name}"]
        return answer
    cache = _read_timing_cache(config, Path(job["timing_cache"]))
    monitor = _monitor(trt)
    config.progress_monitor = monitor
    started = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        answer["errors"] = logger.errors[-MAX_ERRORS:] or ["no engine, and no reason given"]
        return answer
    answer["build_s"] = round(time.monotonic() - started, 3)
    Path(job["engine"]).write_bytes(engine)
    _write_timing_cache(cache, Path(job["timing_cache"]))
    answer["peak_bytes"] = peak_bytes()
    return answer


def version_of(trt: Any) -> tuple[int, int]:
    """Major and minor."""
    major, minor = re.findall(r"\d+", trt.__version__)[:2]
    return int(major), int(minor)


def configure(trt: Any, builder: Any, job: Job) -> Any:
    """The builder's configuration for a job. Raises AttributeError for what this version does not have.

    No TF32, as in `rtx_builder.configure`. A version-compatible engine is made without the lean runtime inside: that
    would be program code in a file that may come from a stranger.
    """
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if job["workspace_bytes"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace_bytes"])
    if job["optimization_level"] is not None:
        config.builder_optimization_level = job["optimization_level"]
    if job["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if job["hardware_compatible"] is not None:
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, job["hardware_compatible"])
    add_profiles(builder, config, job["profiles"])
    return config


def _read_timing_cache(config: Any, path: Path) -> Any:
    """A timing cache in a configuration. One that TensorRT does not take, as of another GPU, is begun anew."""
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _write_timing_cache(cache: Any, path: Path) -> None:
    """Replace the file whole; other builds may read it. A cache that cannot be kept is no reason to fail."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(memoryview(cache.serialize()))
        partial.replace(path)
    except OSError as error:
        sys.stderr.write(f"timing cache: {error}\n")
        partial.unlink(missing_ok=True)


def _say(text: str) -> None:
    print(json.dumps({"progress": text}), flush=True)  # noqa: T201 - what this program is for


def _monitor(trt: Any) -> Any:
    """Reports TensorRT's phases, the innermost ones with the steps that they have taken."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.last = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps
            _say(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self.last > SECONDS_BETWEEN_WORDS:
                self.last = time.monotonic()
                _say(f"{phase_name}: {step + 1} of {self.steps.get(phase_name, 0)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


if __name__ == "__main__":
    main()
