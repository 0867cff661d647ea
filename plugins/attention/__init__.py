"""HeadsAttention: what a vision block does between its linear layers, and the mean of its keys over the heads."""

from __future__ import annotations

OP_TYPE = "HeadsAttention"
"""Name of the operator in ONNX files, in domain `aurora`."""

INPUTS = {
    "query": "(F, T, D)",
    "key": "(F, T, D)",
    "value": "(F, T, D)",
    "query_bias": "(D)",
    "key_bias": "(D)",
    "value_bias": "(D)",
}
"""Inputs in order -> shape, float32. The order is final: kernels rely on it."""

OUTPUTS = {"mixed": "(F, T, D)", "metric": "(F, T, D / n_heads)"}

MAX_HEAD_SIZE = 128
"""Of the native kernel; larger heads are left as the exporter made them."""
