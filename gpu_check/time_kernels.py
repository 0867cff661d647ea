"""How fast the WKV kernels are, beside each other and how fast this device copies memory, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from aurora_export.plugins.wkv.cuda_library import ARGUMENTS, TENSOR_TOKENS, WkvCudaLibrary
from devices import Cuda, Emulated
from wkv_on_cuda import HEAD_SIZE, random_inputs

N_HEADS, N_LAYERS = 32, 24
"""Of the released 2B model."""

COPY_BYTES = 2**30
STEP_BATCHES = (1, 512)
"""One live video, and a batch whose states, 256 MiB, are in no cache."""

CHUNK_BATCHES, CHUNK_TOKENS = (1, 8), 256
FORM_TOKENS = (TENSOR_TOKENS, 92, CHUNK_TOKENS)
"""Where the tensor form of `Wkv6` begins, a frame, and the most that a run of the graph takes."""

TIMED_FORMS = ("recurrent", "tensor_16", "tensor_64", "auto")
LEAST_SHARE_OF_COPY = 0.8
"""Of the bandwidth of the step kernel at the large batch."""


def time_kernels(library: WkvCudaLibrary, device: Cuda | Emulated, *, dry_run: bool) -> dict[str, Any]:
    """Measure copy bandwidth, then each kernel in float16, then the forms of `Wkv6` beside each other.

    dry_run: sizes that an emulation can do; the form of the result is the same, its numbers mean nothing.
    """
    n_heads, n_layers = (1, 1) if dry_run else (N_HEADS, N_LAYERS)
    copy = _copy_bytes_per_second(device, 2**20 if dry_run else COPY_BYTES)
    result: dict[str, Any] = {"copy_gb_per_s": round(copy / 1e9, 1)}
    for op_type in ARGUMENTS:
        for n_sequences in (1, 2) if dry_run else STEP_BATCHES:
            call, n_bytes = _call(library, device, op_type, (n_sequences, 1, n_heads, HEAD_SIZE))
            seconds = device.seconds(call, repeats=n_layers)
            result[f"{op_type} step, {n_sequences} sequences"] = {
                "us": round(seconds * 1e6, 2),
                "gb_per_s": round(n_bytes / seconds / 1e9, 1),
                "share_of_copy": round(n_bytes / seconds / copy, 3),
            }
        for n_sequences in (1,) if dry_run else CHUNK_BATCHES:
            n_tokens = 9 if dry_run else CHUNK_TOKENS
            call, _ = _call(library, device, op_type, (n_sequences, n_tokens, n_heads, HEAD_SIZE))
            seconds = device.seconds(call, repeats=n_layers)
            result[f"{op_type} {n_tokens} tokens, {n_sequences} sequences"] = {
                "us": round(seconds * 1e6, 2),
                "tokens_per_s": round(n_sequences * n_tokens / seconds),
            }
    result["forms of Wkv6"] = forms = _time_forms(library, device, n_heads, n_layers, dry_run=dry_run)
    shares = [
        result[f"{op_type} step, {STEP_BATCHES[-1]} sequences"]["share_of_copy"] for op_type in ARGUMENTS if not dry_run
    ]
    gains = [form["auto_over_recurrent"] for name, form in forms.items() if "float16" in name and not dry_run]
    result["targets"] = {
        "step kernel, share of copy bandwidth": _target(LEAST_SHARE_OF_COPY, shares),
        "form of Wkv6 that is taken, times as fast as the recurrence": _target(1.0, gains),
    }
    return result


def _target(least: float, measured: list[float]) -> dict[str, Any]:
    """The smallest of what was measured, and whether it is enough; a dry run measures nothing."""
    smallest = min(measured, default=None)
    return {"least": least, "measured": smallest, "met": None if smallest is None else smallest >= least}


def _time_forms(
    library: WkvCudaLibrary, device: Cuda | Emulated, n_heads: int, n_layers: int, *, dry_run: bool
) -> dict[str, dict[str, Any]]:
    """Microseconds of every form of `Wkv6`, which is the fastest, and what the choice of "auto" wins.

    float32 is what the graphs of today give; "auto" is the recurrence for it.
    """
    found = {}
    for dtype in (torch.float16, torch.float32):
        for n_sequences in (1,) if dry_run else CHUNK_BATCHES:
            for n_tokens in (TENSOR_TOKENS,) if dry_run else FORM_TOKENS:
                times = {}
                for form in TIMED_FORMS:
                    sizes = (n_sequences, n_tokens, n_heads, HEAD_SIZE)
                    call, _ = _call(library, device, "Wkv6", sizes, dtype=dtype, form=form)
                    times[form] = device.seconds(call, repeats=n_layers)
                name = f"{n_tokens} tokens, {n_sequences} sequences, {str(dtype).removeprefix('torch.')}"
                found[name] = {
                    "us": {form: round(seconds * 1e6, 2) for form, seconds in times.items()},
                    "fastest": min(TIMED_FORMS[:-1], key=times.__getitem__),
                    "tensor_over_recurrent": round(times["recurrent"] / min(times["tensor_16"], times["tensor_64"]), 3),
                    "auto_over_recurrent": round(times["recurrent"] / times["auto"], 3),
                }
    return found


def _copy_bytes_per_second(device: Cuda | Emulated, n_bytes: int) -> float:
    """Bytes that are read and written in a second by a copy inside of the device's memory."""
    source = torch.zeros(n_bytes, dtype=torch.uint8, device=device.name)
    target = torch.empty_like(source)
    return 2 * n_bytes / device.seconds(lambda: target.copy_(source), repeats=4)


def _call(
    library: WkvCudaLibrary,
    device: Cuda | Emulated,
    op_type: str,
    sizes: tuple[int, int, int, int],
    *,
    dtype: torch.dtype = torch.float16,
    form: str = "auto",
) -> tuple[Callable[[], None], int]:
    """A call of the operator on arrays of its own, and the bytes of all of them."""
    arrays = random_inputs(op_type, sizes, seed=0, dtype=dtype, device=device.name)
    element_type = str(dtype).removeprefix("torch.")
    arrays["output"] = torch.empty_like(arrays["value"])
    arrays["next_state"] = torch.empty_like(arrays["state"])

    def call() -> None:
        addresses = {name: x.data_ptr() for name, x in arrays.items()}
        library.enqueue(op_type, addresses, sizes, element_type=element_type, form=form, stream=device.stream)

    return call, sum(x.numel() * x.element_size() for x in arrays.values())
