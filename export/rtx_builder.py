"""One engine of TensorRT-RTX from one ONNX file; run as a process of its own, because the builder may abort.

    python -m aurora_export.export.rtx_builder < job.json

The job and the answer are those of `Job` and `Answer`. No GPU and no driver are needed: the compute capabilities are
named, so the builder asks no device. A timing cache would make it ask one; there is none.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, TypedDict

MAX_ERRORS = 5
"""Of the library's own error messages, the last ones."""


class Job(TypedDict):
    """What to build."""

    onnx: str
    engine: str
    compute_capabilities: list[str]
    profiles: list[dict[str, list[list[int]]]]
    """for each profile, input -> its least, usual and largest shape"""


class Answer(TypedDict, total=False):
    """On stdout, as JSON: `errors` if it failed, else the rest."""

    version: str
    errors: list[str]
    parse_s: float
    build_s: float
    peak_bytes: int


def main() -> None:
    """Read a job from stdin, write its engine, print the answer."""
    job: Job = json.load(sys.stdin)
    print(json.dumps(build(job)), flush=True)  # noqa: T201 - what this program is for


def build(job: Job) -> Answer:
    """Parse, build and write one engine."""
    import tensorrt_rtx as trt

    answer = Answer(version=trt.__version__)
    logger = error_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    started = time.monotonic()
    if not parser.parse_from_file(job["onnx"]):
        answer["errors"] = [parser.get_error(i).desc() for i in range(parser.num_errors)][:MAX_ERRORS]
        return answer
    answer["parse_s"] = round(time.monotonic() - started, 3)
    config = configure(trt, builder, job)
    started = time.monotonic()
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        answer["errors"] = logger.errors[-MAX_ERRORS:] or ["no engine, and no reason given"]
        return answer
    answer["build_s"] = round(time.monotonic() - started, 3)
    Path(job["engine"]).write_bytes(engine)
    answer["peak_bytes"] = peak_bytes()
    return answer


def configure(trt: Any, builder: Any, job: Job) -> Any:
    """The builder's configuration for a job.

    Products in float32 are that, not TF32, which is the library's default: merging compares similarities, and ten bits
    of mantissa choose other tokens; the recurrence sums over thousands of tokens.
    """
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = len(job["compute_capabilities"])
    for i, capability in enumerate(job["compute_capabilities"]):
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability.replace('.', '')}"), i)
    add_profiles(builder, config, job["profiles"])
    return config


def add_profiles(builder: Any, config: Any, profiles: list[dict[str, list[list[int]]]]) -> None:
    """Give a configuration the profiles of a job."""
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (least, usual, most) in shapes.items():
            profile.set_shape(name, least, usual, most)
        config.add_optimization_profile(profile)


def peak_bytes() -> int:
    """Most memory that this process had. Not ru_maxrss, which begins at that of the process that started this one."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def error_logger(trt: Any) -> Any:
    """A logger that keeps errors and passes warnings to stderr."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)
            if severity <= trt.ILogger.Severity.WARNING:
                sys.stderr.write(f"{message}\n")

    return Logger()


if __name__ == "__main__":
    main()
