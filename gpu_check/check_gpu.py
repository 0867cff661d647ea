"""What is right, and how fast, on this machine's NVIDIA GPU: one command, one JSON file. Needs nvcc, g++ and torch.

    python gpu_check/check_gpu.py --out gpu.json [--bundle NAME.aurora] [--full-size FOLDER]

Exit code 0 if everything that could be checked is right; times decide nothing. --dry-run runs the same program on a
CPU, with emulated kernels and small sizes: its numbers mean nothing, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import source_tree

source_tree.make_importable()

from environment import environment  # noqa: E402

from aurora_export.plugins.cuda import FOLDER, ORT_LIBRARY  # noqa: E402
from aurora_export.plugins.wkv.cuda_library import WkvCudaLibrary  # noqa: E402
from check_full_size import check_full_size, make_bundles  # noqa: E402
from check_kernels import check_kernels, check_with_sanitizer  # noqa: E402 - they need the package
from check_onnxruntime import check_onnxruntime  # noqa: E402
from check_tensorrt import check_rtx, check_tensorrt  # noqa: E402
from devices import Cuda, Emulated  # noqa: E402
from kernel_library import compile_emulated, compile_for_gpu, compile_operators  # noqa: E402
from time_kernels import time_kernels  # noqa: E402
from time_transformer import time_transformer  # noqa: E402

KERNELS = source_tree.ROOT / "plugins/wkv"
EMULATION = source_tree.ROOT / "tests/plugins/cuda_emulation"


def main() -> int:
    """Run every section, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--bundle", type=Path, help="a bundle to run in ONNX Runtime on the GPU")
    parser.add_argument("--full-size", type=Path, metavar="FOLDER", help="make a full-size model there, and measure it")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, with emulated kernels")
    arguments = parser.parse_args()
    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("torch sees no NVIDIA GPU here; --dry-run needs none")
    result = run_sections(arguments.bundle, arguments.full_size, dry_run=arguments.dry_run)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, section in result["sections"].items():
        print(f"{_verdict(section):8} {name}", file=sys.stderr)
    print(f"{'PASS' if result['passed'] else 'FAIL'}: {arguments.out}", file=sys.stderr)
    return 0 if result["passed"] else 1


def run_sections(bundle: Path | None, full_size: Path | None = None, *, dry_run: bool) -> dict[str, Any]:
    """The content of the file. A section that raises is a failed one, and the others go on."""
    device = Emulated() if dry_run else Cuda()
    sections: dict[str, Any] = {}
    plugins = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "libaurora_wkv_cuda.so"
        sections["compile"] = _section(lambda: _compile(device, path))
        if sections["compile"]["passed"]:
            library = WkvCudaLibrary.load(path)
            sections["kernels against the reference"] = _section(
                lambda: check_kernels(library, device.name, few=dry_run)
            )
            sections["compute-sanitizer"] = _section(
                lambda: {"left_out": "dry run"} if dry_run else check_with_sanitizer(path)
            )
            sections["speed of the kernels"] = _section(lambda: time_kernels(library, device, dry_run=dry_run))
        operators = Path(folder) / ORT_LIBRARY
        sections["compile operators"] = _section(lambda: _compile_operators(device, operators))
        ours = operators if operators.is_file() else None
        os.environ[FOLDER] = folder if ours is not None else "off"
        sections["onnxruntime"] = _section(lambda: check_onnxruntime(bundle, ours, dry_run=dry_run))
        sections["full size in onnxruntime"] = _section(lambda: _full_size(full_size, bundle, device, dry_run=dry_run))
        sections["a transformer of the same size"] = _section(lambda: time_transformer(device, dry_run=dry_run))
    sections["tensorrt-rtx"] = _section(lambda: check_rtx(None if dry_run else bundle, device))
    if plugins is None:
        os.environ.pop(FOLDER, None)  # TensorRT's plugins are where they were installed
    else:
        os.environ[FOLDER] = plugins
    sections["tensorrt"] = _section(lambda: check_tensorrt(bundle))
    return {
        "dry_run": dry_run,
        "passed": all(section.get("passed", True) for section in sections.values()),
        "command": shlex.join(["python", *sys.argv]),
        "environment": {**environment(), **device.describe()},
        "sections": sections,
    }


def _compile(device: Cuda | Emulated, library: Path) -> dict[str, Any]:
    if isinstance(device, Cuda):
        command = compile_for_gpu(KERNELS, library, capability=device.capability)
    else:
        command = compile_emulated(KERNELS, EMULATION, library)
    return {"passed": True, "compiler": command[0]}


def _compile_operators(device: Cuda | Emulated, library: Path) -> dict[str, Any]:
    capability = device.capability if isinstance(device, Cuda) else None
    command = compile_operators(source_tree.ROOT, library, capability=capability, headers=EMULATION)
    return {"passed": True, "compiler": command[0]}


def _full_size(folder: Path | None, bundle: Path | None, device: Cuda | Emulated, *, dry_run: bool) -> dict[str, Any]:
    """In a dry run the bundle takes the place of a full-size one, and the CPU that of the GPU."""
    if dry_run:
        return check_full_size((bundle, bundle) if bundle else None, device, "cpu", dry_run=True)
    return check_full_size(make_bundles(folder) if folder else None, device, "cuda", dry_run=False)


def _section(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return run()
    except Exception:  # whatever a driver, a compiler or a library may raise: the file is for finding out
        return {"passed": False, "error": traceback.format_exc()[-4000:]}


def _verdict(section: dict[str, Any]) -> str:
    if "left_out" in section:
        return "left out"
    return {True: "ok", False: "FAILED", None: "measured"}[section.get("passed")]


if __name__ == "__main__":
    sys.exit(main())
