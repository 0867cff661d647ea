"""The tables of docs/DEVICES.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from result_tables import RESULTS, read_result, table

GPU_SECTIONS = (
    "kernels against the reference",
    "compute-sanitizer",
    "speed of the kernels",
    "onnxruntime",
    "full size in onnxruntime",
    "a transformer of the same size",
    "tensorrt-rtx",
    "tensorrt",
)
"""Of a file that gpu_check/check_gpu.py wrote, but for those that compile."""


def where_run_table() -> str:
    """What was run where: by the files in results/, of which gpu_check.json is the one of a GPU."""
    full, built = read_result("full_size_run"), read_result("engine_build_full")
    cpu = f"run: {full['environment']['cpu']}, {full['environment']['cores']} cores"
    engines = f"built for {' and '.join(built['capabilities'])}, without a GPU, and never run"
    rows = [
        ["ONNX Runtime, CPU, full size", cpu, "full_size_run.json"],
        ["TensorRT-RTX engines, full size", engines, "engine_build_full.json"],
    ]
    on_gpu = read_result("gpu_check") if (RESULTS / "gpu_check.json").is_file() else None
    for name in GPU_SECTIONS:
        rows.append([f"on a GPU: {name}", _verdict(on_gpu, name), "gpu_check.json" if on_gpu else "none"])
    return table(["what", "where", "result file"], rows)


def _verdict(on_gpu: Mapping[str, Any] | None, name: str) -> str:
    """How a section ended on a GPU. A dry run was on none."""
    section = (
        on_gpu["sections"].get(name, {"left_out": "not in the file"}) if on_gpu and not on_gpu["dry_run"] else None
    )
    if on_gpu is None or section is None:
        return "never run"
    gpu = on_gpu["environment"]["gpu"]
    if "left_out" in section:
        return f"{gpu}: left out, {section['left_out']}"
    forms = "".join(
        f"; {case}: {form['fastest']} fastest, tensor {form['tensor_over_recurrent']:.2f} times as fast as recurrent"
        for case, form in section.get("forms of Wkv6", {}).items()
    )
    return f"{gpu}: " + {True: "passed", False: "FAILED", None: "measured"}[section.get("passed")] + forms


def engine_build_table() -> str:
    """Engines of TensorRT-RTX at the widths of the 2B model: what a build takes."""
    runs = [*read_result("engine_build")["runs"], *read_result("engine_build_full")["runs"]]
    rows = [
        [
            f"{run['graph']}, {run['n_layers']} layers",
            " and ".join(run["profiles"]),
            f"{run['weights_mb']:.0f} MB",
            f"{run['engine_mb']:.0f} MB",
            f"{run['build_s']:.1f} s",
            f"{run['peak_mb']:.0f} MB",
        ]
        for run in runs
    ]
    return table(["graph", "profiles", "weights", "engine", "build", "peak memory"], rows)


def kernel_code_table() -> str:
    """The forms of the CUDA kernel of `Wkv6` beside each other, by their machine code."""
    rows = [
        [
            row["device"],
            f"`{row['form']}`, {row['dtype']}",
            str(32 * row["blocks_of_a_head"]),
            str(row["registers"]),
            f"{row['shared_bytes'] / 1024:.0f} KiB",
            str(row["spilled_bytes"]),
            f"{row['instructions']:.0f}",
            f"{row['cycles_alone']:.0f}",
            f"{row['warps_of_a_scheduler']}",
            f"{row['cycles']}",
        ]
        for row in read_result("kernel_code")["rows"]
    ]
    head = ["device", "kernel", "blocks, 32 heads", "registers", "shared memory", "spilled"]
    head += ["instructions", "cycles, a warp alone", "warps of a scheduler", "**cycles a token**"]
    return table(head, rows)
