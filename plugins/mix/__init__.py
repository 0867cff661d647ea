"""Fused pieces of an RWKV-6 block: what stands between its linear layers, an operator each.

They have no reference of their own: the body of each is cut out of the exported graph (export/fuse_blocks.py), which
comes from model/rwkv6.py, and the native kernels are tested against that body.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """One operator of domain `aurora`. The order of inputs and outputs is final: kernels rely on it."""

    inputs: tuple[str, ...]
    """what changes from token to token, then parameters, which have a dot: their names in a block of the checkpoint"""
    outputs: tuple[str, ...]
    has_epsilon: bool
    """whether it holds a norm, and has the attribute `epsilon`"""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The inputs that are parameters of the checkpoint."""
        return tuple(name for name in self.inputs if "." in name)


PIECES = {
    "TimeMixInputs6Int8": Piece(
        inputs=(
            "x",
            "shift",
            "ln1.weight",
            "ln1.bias",
            "att.time_maa_x",
            *(f"att.time_maa_{name}" for name in "wkvrg"),
            *(f"att.time_maa_w{i}.{what}" for i in (1, 2) for what in ("int8", "scales")),
            "att.time_decay",
            *(f"att.time_decay_w{i}.{what}" for i in (1, 2) for what in ("int8", "scales")),
        ),
        outputs=("receptance", "key", "value", "gate", "log_decay", "next_shift"),
        has_epsilon=True,
    ),
    "HeadNormGate6": Piece(
        inputs=("y", "gate", "att.ln_x.weight", "att.ln_x.bias"), outputs=("output",), has_epsilon=True
    ),
    "ChannelMixInputs6": Piece(
        inputs=("x", "update", "shift", "ln2.weight", "ln2.bias", "ffn.time_maa_k", "ffn.time_maa_r"),
        outputs=("sum", "key", "receptance", "next_shift"),
        has_epsilon=True,
    ),
    "ReluSquare": Piece(inputs=("x",), outputs=("y",), has_epsilon=False),
    "ChannelMixOutput6": Piece(inputs=("x", "receptance", "value"), outputs=("y",), has_epsilon=False),
}
"""Operator -> what it takes and gives."""
