"""WKV-6 as an ONNX function without a loop: matrix products over chunks of tokens, for any T and B.

For engines that compile a graph ahead of time and have no operator of ours: a Scan is a loop of small kernels there.
The mathematics inside a chunk is that of `reference.wkv6_chunked`. Across chunks nothing is sequential either: with
`total` the log-decay of a whole chunk, the state before chunk i is

    S_i = sum over m <= i of diag(exp(total_m + ... + total_(i-1))) U_m

where U_0 is the state that came in and U_m the update of chunk m - 1; i = C is the state that goes out. The sums of
log-decays are a product with a mask, not differences of running sums, which would cancel where decay is strong.
RWKV-7 has no such form: its transition is no diagonal.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from aurora_export.plugins.wkv.onnx_function import function_of
from aurora_export.plugins.wkv.reference import CHUNK_SIZE_WKV6, MIN_LOG_DECAY

L = CHUNK_SIZE_WKV6


def chunked_wkv6_function(*, opset: int) -> FunctionProto:
    """The function `aurora::Wkv6`; inputs, outputs and attributes as in its schema.

    opset: version of the standard operators, 18 or newer, which is that of the model the function goes into.
    """
    body = _Body()
    _write(body)
    return function_of(body.nodes, "Wkv6", opset=opset)


class _Body:
    """Nodes, written one after the other; values are named as they are made."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], str] = {}

    def __call__(self, op_type: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Write a node; returns the name of its output."""
        name = to or f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        """A Constant node, one for each value."""
        key = (str(value.dtype), value.tobytes(), value.shape)
        if key not in self._constants:
            self._constants[key] = self("Constant", value=numpy_helper.from_array(value))
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, np.int64))

    def as_float(self, name: str) -> str:
        """Cast to float32."""
        self.nodes.append(helper.make_node("Cast", [name], [f"{name}_as_float"], to=TensorProto.FLOAT))
        return f"{name}_as_float"

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(np.array(value, np.float32))


def _write(b: _Body) -> None:
    """The whole body. Shapes: C chunks of L tokens, vectors (B, H, C, L, N), states (B, H, C, N, N)."""
    n_tokens = b("Shape", "receptance", start=1, end=2)
    n_missing = b("Sub", b("Mul", b("Div", b("Add", n_tokens, b.ints(L - 1)), b.ints(L)), b.ints(L)), n_tokens)
    pads = b("Concat", b.ints(0, 0, 0, 0, 0), n_missing, b.ints(0, 0), axis=0)
    in_chunks = b("Concat", b.ints(0, -1, L), b("Shape", "receptance", start=2), axis=0)

    def split(name: str) -> str:
        """(B, T, H, N) -> (B, H, C, L, N); the tail is zeros, which leave state and outputs alone."""
        padded = b("Reshape", b("Pad", name, pads), in_chunks)
        return b("Transpose", padded, perm=[0, 3, 1, 2, 4])

    receptance, key, value = split("receptance"), split("key"), split("value")
    log_decay = split(b("Max", "log_decay", b.number(MIN_LOG_DECAY)))
    after = b("MatMul", b.constant(np.tril(np.ones((L, L), np.float32))), log_decay)
    before = b("Sub", after, log_decay)
    total, middle = _token(b, after, L - 1), _token(b, after, L // 2 - 1)

    decayed_receptance = b("Mul", receptance, b("Exp", b("Sub", before, middle)))
    decayed_key = b("Mul", key, b("Exp", b("Sub", middle, after)))
    products = b("MatMul", decayed_receptance, b("Transpose", decayed_key, perm=[0, 1, 2, 4, 3]))
    # Products with the future may be inf: Where drops them, multiplying by a mask would give NaN.
    scores = b("Where", b.constant(np.tril(np.ones((L, L), bool), -1)), products, b.number(0.0))
    bonus = b("Unsqueeze", "bonus", b.ints(1, 2))
    weights = b("ReduceSum", b("Mul", b("Mul", receptance, bonus), key), b.ints(-1), keepdims=1)
    within = b("Add", b("MatMul", scores, value), b("Mul", weights, value))

    key_at_end = b("Mul", key, b("Exp", b("Sub", total, after)))
    updates = b("MatMul", b("Transpose", key_at_end, perm=[0, 1, 2, 4, 3]), value)
    states = _states(b, b("Squeeze", total, b.ints(3)), updates)
    last = b("Slice", states, b.ints(-1), b.ints(np.iinfo(np.int64).max), b.ints(2))
    b("Squeeze", last, b.ints(2), to="next_state")
    earlier = b("Slice", states, b.ints(0), b.ints(-1), b.ints(2))
    across = b("MatMul", b("Mul", receptance, b("Exp", before)), earlier)

    joined = b("Transpose", b("Add", within, across), perm=[0, 2, 3, 1, 4])
    as_tokens = b("Concat", b.ints(0, -1), b("Shape", "receptance", start=2), axis=0)
    b("Slice", b("Reshape", joined, as_tokens), b.ints(0), n_tokens, b.ints(1), to="output")


def _token(b: _Body, vectors: str, t: int) -> str:
    """Token t of each chunk: (B, H, C, 1, N)."""
    return b("Slice", vectors, b.ints(t), b.ints(t + 1), b.ints(3))


def _states(b: _Body, total: str, updates: str) -> str:
    """The states before each chunk and after the last.

    total: log-decay of each chunk, (B, H, C, N).  updates: (B, H, C, N, N).  Returns (B, H, C + 1, N, N).
    """
    n_chunks = b("Squeeze", b("Shape", updates, start=2, end=3), b.ints(0))
    zero, one = b.constant(np.array(0, np.int64)), b.constant(np.array(1, np.int64))
    chunk = b("Range", zero, n_chunks, one)
    state = b("Range", zero, b("Add", n_chunks, one), one)
    at_state, at_update = b("Unsqueeze", state, b.ints(1, 2)), b("Unsqueeze", state, b.ints(0, 2))
    is_between = b("And", b("GreaterOrEqual", chunk, at_update), b("Less", chunk, at_state))
    # (C + 1, C + 1, C) @ (B, H, 1, C, N): one matrix product for each state.
    decay = b("MatMul", b.as_float(is_between), b("Unsqueeze", total, b.ints(2)))
    is_past = b("LessOrEqual", b("Unsqueeze", state, b.ints(0)), b("Unsqueeze", state, b.ints(1)))
    factors = b("Where", b("Unsqueeze", is_past, b.ints(2)), b("Exp", decay), b.number(0.0))
    everything = b("Concat", b("Unsqueeze", "state", b.ints(2)), updates, axis=2)
    by_key = b(
        "MatMul", b("Transpose", factors, perm=[0, 1, 4, 2, 3]), b("Transpose", everything, perm=[0, 1, 3, 2, 4])
    )
    return b("Transpose", by_key, perm=[0, 1, 3, 2, 4])
