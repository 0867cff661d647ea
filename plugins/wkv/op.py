"""WKV as torch custom ops `aurora::wkv6` and `aurora::wkv7`, and how the ONNX exporter writes them down.

An op with real mathematics, not a placeholder: a model built with it computes what the reference computes, and
torch.export keeps each call as one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx.defs
import onnxscript
import torch
from onnx import helper
from torch import Tensor

from aurora_export.plugins import DOMAIN, NODE_ATTRIBUTES, OP_VERSION, WKV_OPS
from aurora_export.plugins.wkv.reference import wkv6_recurrent, wkv7_recurrent

PER_TOKEN, BONUS, STATE = "(B, T, H, N)", "(H, N)", "(B, H, N, N)"

INPUTS: dict[str, dict[str, str]] = {
    "Wkv6": {
        "receptance": PER_TOKEN,
        "key": PER_TOKEN,
        "value": PER_TOKEN,
        "log_decay": PER_TOKEN,
        "bonus": BONUS,
        "state": STATE,
    },
    "Wkv7": {
        "receptance": PER_TOKEN,
        "log_decay": PER_TOKEN,
        "key": PER_TOKEN,
        "value": PER_TOKEN,
        "removal": PER_TOKEN,
        "replacement": PER_TOKEN,
        "state": STATE,
    },
}
"""Operator -> inputs in order -> shape. The order is that of `reference.py`, and final: kernels rely on it."""

OUTPUTS = {"output": PER_TOKEN, "next_state": STATE}
"""Outputs of both operators in order -> shape."""

ELEMENT_TYPE = "tensor(float)"
"""Everything is float32, whatever the precision of the graph around: the state sums over thousands of tokens."""


@torch.library.custom_op(f"{DOMAIN}::wkv6", mutates_args=())
def wkv6(
    receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the RWKV-6 recurrence; arguments and results as in `reference.wkv6_recurrent`."""
    return wkv6_recurrent(receptance, key, value, log_decay, bonus, state)


@torch.library.custom_op(f"{DOMAIN}::wkv7", mutates_args=())
def wkv7(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    removal: Tensor,
    replacement: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run the RWKV-7 recurrence; arguments and results as in `reference.wkv7_recurrent`."""
    return wkv7_recurrent(receptance, log_decay, key, value, removal, replacement, state)


@wkv6.register_fake
def _wkv6_shapes(
    receptance: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, bonus: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    return receptance.new_empty(receptance.shape), state.new_empty(state.shape)


@wkv7.register_fake
def _wkv7_shapes(
    receptance: Tensor,
    log_decay: Tensor,
    key: Tensor,
    value: Tensor,
    removal: Tensor,
    replacement: Tensor,
    state: Tensor,
) -> tuple[Tensor, Tensor]:
    return receptance.new_empty(receptance.shape), state.new_empty(state.shape)


TORCH_OPS: dict[int, Any] = {6: wkv6, 7: wkv7}
"""RWKV version -> torch custom op."""


def schema(op_type: str) -> onnx.defs.OpSchema:
    """The ONNX schema of "Wkv6" or "Wkv7"."""
    schema_of = onnx.defs.OpSchema
    return schema_of(
        op_type,
        DOMAIN,
        OP_VERSION,
        inputs=[schema_of.FormalParameter(name, ELEMENT_TYPE) for name in INPUTS[op_type]],
        outputs=[schema_of.FormalParameter(name, ELEMENT_TYPE) for name in OUTPUTS],
        attributes=[
            schema_of.Attribute(name, helper.make_attribute(name, default)) for name, default in NODE_ATTRIBUTES.items()
        ],
    )


@contextmanager
def translations() -> Iterator[dict[Callable[..., Any], Callable[..., Any]]]:
    """What torch.onnx.export needs to write the ops as nodes: torch op -> translation.

    onnxscript looks a node's schema up when the translation runs, so onnx knows the schemas inside of this block. Not
    longer: where it knows one, its shape inference does not look into the model's function of that name.
    """
    missing = [op_type for op_type in WKV_OPS.values() if not onnx.defs.has(op_type, OP_VERSION, DOMAIN)]
    for op_type in missing:
        onnx.defs.register_schema(schema(op_type))
    try:
        yield _translation_table()
    finally:
        for op_type in missing:
            onnx.defs.deregister_schema(op_type, OP_VERSION, DOMAIN)


def _translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    opset = onnxscript.values.Opset(DOMAIN, OP_VERSION)

    def write_wkv6(receptance: Any, key: Any, value: Any, log_decay: Any, bonus: Any, state: Any) -> tuple[Any, Any]:
        return opset.Wkv6(receptance, key, value, log_decay, bonus, state, **NODE_ATTRIBUTES)

    def write_wkv7(
        receptance: Any, log_decay: Any, key: Any, value: Any, removal: Any, replacement: Any, state: Any
    ) -> tuple[Any, Any]:
        return opset.Wkv7(receptance, log_decay, key, value, removal, replacement, state, **NODE_ATTRIBUTES)

    return {torch.ops.aurora.wkv6.default: write_wkv6, torch.ops.aurora.wkv7.default: write_wkv7}
