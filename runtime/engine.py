"""What runs a graph: named arrays in, named arrays out. The session knows these protocols, never a library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from aurora_export.contract import GraphSpec


class Loop(Protocol):
    """A recurrent graph with a state of its own, kept in the engine's buffers from one run to the next."""

    def advance(self, embeddings: np.ndarray) -> np.ndarray:
        """Run T tokens and move the state on.

        embeddings: float32, shape (T, E), 1 <= T <= MAX_CHUNK_TOKENS.
        Returns the logits of the last position, float32, shape (V,); overwritten by the next call.
        """
        ...

    def feed(self, embeddings: np.ndarray) -> None:
        """As `advance`, where nobody needs the logits; on a GPU it may return before the work is done."""
        ...

    def read_state(self) -> dict[str, np.ndarray]:
        """Copies of the state arrays by name, of batch 1."""
        ...

    def write_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Continue from another state; the arrays are copied."""
        ...


class Engine(Protocol):
    """One graph of a bundle, opened on a device and checked against its contract. Safe to share between threads."""

    spec: GraphSpec
    backend: str
    """Library and device, as a state file names it: `onnxruntime-cpu`."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """All outputs for all inputs, by the names of the contract."""
        ...

    def open_loop(self) -> Loop:
        """A new recurrence, its state zero. Loops of one engine share the weights and nothing else."""
        ...
