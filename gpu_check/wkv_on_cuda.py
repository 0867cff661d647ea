"""Calls the CUDA kernels with torch tensors that are surrounded by guards, and poisoned where nothing may be left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aurora_export.plugins.wkv import reference
from aurora_export.plugins.wkv.cuda_library import ARGUMENTS, FLOAT32_ALWAYS, WkvCudaLibrary

GUARD = 2048
"""Elements before and after each array; a multiple of the kernels' alignment in every type."""

HEAD_SIZE = 64


OUTPUTS = ("output", "next_state")

OUTPUT_ERROR = {torch.float32: 5e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
"""Share of the largest output: sums in float32, and half a unit in the last place of the type it is stored in."""

STATE_ERROR = 5e-6
"""Share of the largest element of the state, which is float32 always."""


def input_names(op_type: str) -> tuple[str, ...]:
    """The operator's inputs in order."""
    return tuple(name for name in ARGUMENTS[op_type] if name not in OUTPUTS)


def shape_of(name: str, sizes: tuple[Any, ...]) -> tuple[Any, ...]:
    """Shape of an argument. sizes: B, T, H, N."""
    n_sequences, n_tokens, n_heads, size = sizes
    if name == "bonus":
        return (n_heads, size)
    if name in ("state", "next_state"):
        return (n_sequences, n_heads, size, size)
    return (n_sequences, n_tokens, n_heads, size)


def random_inputs(
    op_type: str, sizes: tuple[int, ...], seed: int, dtype: torch.dtype, device: str = "cpu"
) -> dict[str, Tensor]:
    """Inputs as a model makes them, from almost no decay to exp(-40), in the types that the kernels take."""
    generator = torch.Generator(device).manual_seed(seed)
    drawn = {
        name: torch.randn(shape_of(name, sizes), generator=generator, device=device) for name in input_names(op_type)
    }
    if op_type == "Wkv6":
        drawn["log_decay"] = -torch.exp(drawn["log_decay"] * 2)
    else:
        drawn["log_decay"] = -0.6065 * torch.sigmoid(drawn["log_decay"])
        drawn["removal"] = torch.nn.functional.normalize(drawn["removal"], dim=-1)
        drawn["replacement"] = -drawn["removal"] * 0.5
    return {name: x if name in FLOAT32_ALWAYS else x.to(dtype) for name, x in drawn.items()}


def expected(op_type: str, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """What the reference makes of the same inputs, in float64."""
    recurrent = getattr(reference, f"{op_type.lower()}_recurrent")
    return recurrent(*(inputs[name].double() for name in input_names(op_type)))


def guarded(values: Tensor) -> tuple[Tensor, Tensor]:
    """A copy of `values` between guards of NaN: the whole buffer, and the view of the copy in it."""
    buffer = torch.full((values.numel() + 2 * GUARD,), float("nan"), dtype=values.dtype, device=values.device)
    view = buffer[GUARD:-GUARD].view(values.shape)
    view.copy_(values)
    return buffer, view


def errors(op_type: str, inputs: dict[str, Tensor], actual: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Output -> its largest error over the largest element that it should have; infinite if anything is not finite."""
    found = {}
    for name, x, wanted in zip(OUTPUTS, actual, expected(op_type, inputs), strict=True):
        error = float((x.double() - wanted).abs().max() / wanted.abs().max())
        found[name] = error if bool(x.isfinite().all()) else float("inf")
    return found


def limits(dtype: torch.dtype) -> dict[str, float]:
    """Output -> the largest error that rounding explains."""
    return {"output": OUTPUT_ERROR[dtype], "next_state": STATE_ERROR}


def run(
    library: WkvCudaLibrary,
    op_type: str,
    inputs: dict[str, Tensor],
    *,
    form: str = "auto",
    in_place: bool = False,
    stream: int = 0,
) -> tuple[Tensor, Tensor]:
    """Outputs of the kernels; asserts that nothing else was written.

    form: of `cuda_library.FORMS`.  in_place: give the same buffer for `state` and `next_state`.
    """
    first = inputs["receptance"]
    sizes = tuple(first.shape)
    buffers = {name: guarded(x) for name, x in inputs.items()}
    buffers["output"] = guarded(torch.full_like(first, float("nan")))
    buffers["next_state"] = buffers["state"] if in_place else guarded(torch.full_like(inputs["state"], float("nan")))
    addresses = {name: buffers[name][1].data_ptr() for name in ARGUMENTS[op_type]}
    element_type = str(first.dtype).removeprefix("torch.")
    library.enqueue(op_type, addresses, sizes, element_type=element_type, form=form, stream=stream)
    if first.is_cuda:
        torch.cuda.synchronize()
    for name, (buffer, view) in buffers.items():
        assert buffer[:GUARD].isnan().all() and buffer[-GUARD:].isnan().all(), f"{name}: written outside"
        if name in inputs and not (in_place and name == "state"):
            assert torch.equal(view, inputs[name]), f"{name}: an input was changed"
    return buffers["output"][1], buffers["next_state"][1]
