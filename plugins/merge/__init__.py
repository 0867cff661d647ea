"""MergeTokens: what a vision block does between its attention and its MLP (model/merging.py), in one pass."""

from __future__ import annotations

OP_TYPE = "MergeTokens"
"""Name of the operator in ONNX files, in domain `aurora`."""

INPUTS = {"x": "(F, T, D)", "metric": "(F, T, M)", "sizes": "(F, T)", "owner": "(F, P)"}
"""Inputs in order -> shape; float32, but for the owner, int64. The order is final: kernels rely on it."""

OUTPUTS = {"merged": "(F, T - r, D)", "merged_sizes": "(F, T - r)", "merged_owner": "(F, P)"}

ATTRIBUTES = ("r", "protect_first", "first_apart", "order")
"""Those that kernels read; all int."""

ORDERS = {"ascending": 1, "descending": -1, "none": 0}
"""`merge.order` -> the attribute."""
