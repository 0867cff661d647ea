"""The WKV kernels against the reference in float64: odd shapes, all types, fresh inputs, poisoned outputs.

As a script it makes a few cases only, for compute-sanitizer to watch:

    compute-sanitizer --tool memcheck --error-exitcode 9 python gpu_check/check_kernels.py LIBRARY
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, product
from pathlib import Path
from typing import Any

import torch

import source_tree

source_tree.make_importable()

from aurora_export.plugins.wkv.cuda_library import ARGUMENTS, WkvCudaLibrary  # noqa: E402
from wkv_on_cuda import HEAD_SIZE, errors, limits, random_inputs, run  # noqa: E402 - needs the package

FORMS_OF = {"Wkv6": ("recurrent", "tensor_16", "tensor_64"), "Wkv7": ("auto",)}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
N_TOKENS = (1, 2, 7, 8, 9, 63, 64, 255, 300)
BATCHES_AND_HEADS = ((1, 1), (1, 32), (3, 5))
FEW_TOKENS, FEW_BATCHES_AND_HEADS = (1, 9), ((2, 3),)
"""For a dry run and for compute-sanitizer, both of which are slow."""

WATCHED_TOKENS = (*FEW_TOKENS, 41)
"""compute-sanitizer's: every buffer is used again."""

SANITIZER_TOOLS = ("memcheck", "racecheck", "synccheck")
SANITIZER_EXIT = 9


@dataclass(frozen=True)
class Case:
    """One call of the kernels."""

    op_type: str
    form: str
    dtype: torch.dtype
    sizes: tuple[int, int, int, int]
    in_place: bool


def cases(
    n_tokens: tuple[int, ...] = N_TOKENS, batches_and_heads: tuple[tuple[int, int], ...] = BATCHES_AND_HEADS
) -> Iterator[Case]:
    """Yield every combination; the state is updated in place in every other one."""
    in_place = cycle((False, True))
    for op_type, dtype, t, (b, h) in product(ARGUMENTS, DTYPES, n_tokens, batches_and_heads):
        for form in FORMS_OF[op_type]:
            yield Case(op_type, form, dtype, (b, t, h, HEAD_SIZE), next(in_place))


def check_kernels(
    library: WkvCudaLibrary,
    device: str,
    *,
    few: bool,
    few_tokens: tuple[int, ...] = FEW_TOKENS,
    seed: int | None = None,
) -> dict[str, Any]:
    """Run every case; returns how many there were, those that failed, and the largest error of each type.

    seed: of all inputs; drawn anew if it is not given, and written down, so that a failure can be repeated.
    """
    seed = secrets.randbits(32) if seed is None else seed
    failures: list[dict[str, Any]] = []
    worst: dict[str, float] = {}
    n_cases = 0
    for case in cases(few_tokens, FEW_BATCHES_AND_HEADS) if few else cases():
        n_cases += 1
        inputs = random_inputs(case.op_type, case.sizes, seed + n_cases, case.dtype, device)
        try:
            measured = errors(
                case.op_type,
                inputs,
                run(library, case.op_type, inputs, form=case.form, in_place=case.in_place),
            )
        except Exception as error:  # a refusal, a failed launch, or something written where it must not be
            failures.append({**_described(case), "error": f"{type(error).__name__}: {error}"})
            continue
        allowed = limits(case.dtype)
        if any(measured[name] > allowed[name] for name in allowed):
            failures.append({**_described(case), "errors": measured, "limits": allowed})
        for name, largest in measured.items():
            key = f"{case.op_type} {case.form} {str(case.dtype).removeprefix('torch.')} {name}"
            worst[key] = max(largest, worst.get(key, 0.0))
    return {"passed": not failures, "cases": n_cases, "seed": seed, "failures": failures[:20], "largest_errors": worst}


def check_with_sanitizer(library: Path) -> dict[str, Any]:
    """Let compute-sanitizer watch a few cases, with each of its tools; why not, if it is not there."""
    if shutil.which("compute-sanitizer") is None:
        return {"left_out": "compute-sanitizer is not on PATH"}
    tools: dict[str, dict[str, Any]] = {}
    for tool in SANITIZER_TOOLS:
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", str(SANITIZER_EXIT)]
        process = subprocess.run(
            [*command, sys.executable, __file__, str(library)], capture_output=True, text=True, check=False
        )
        tools[tool] = {"passed": process.returncode == 0, "exit_code": process.returncode}
        if process.returncode:
            tools[tool]["output"] = (process.stdout + process.stderr)[-4000:]
    return {"passed": all(tool["passed"] for tool in tools.values()), "tools": tools}


def _described(case: Case) -> dict[str, Any]:
    return {
        "op_type": case.op_type,
        "form": case.form,
        "dtype": str(case.dtype),
        "B, T, H, N": case.sizes,
        "state_in_place": case.in_place,
    }


if __name__ == "__main__":
    result = check_kernels(WkvCudaLibrary.load(Path(sys.argv[1])), "cuda", few=True, few_tokens=WATCHED_TOKENS)
    print(result)
    sys.exit(0 if result["passed"] else 1)
