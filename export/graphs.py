"""The two graphs as torch modules with flat tensor inputs and outputs, in the order of core/contract.py.

They hold a second AuroraModel of the same shapes; its WKV is the custom op, and its weights have no numbers: nothing
of what is traced depends on them. `Graph.read_weight` has the numbers, for whoever writes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aurora_export.config import AuroraConfig
from aurora_export.contract import GraphSpec, graphs
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.language import LanguageState, Rwkv
from aurora_export.plugins.wkv.op import TORCH_OPS

EXAMPLE_SIZES = {"F": 2, "B": 3, "T": 5}
"""Of the free dimensions while tracing: all different, and not 0 or 1, which torch.export would take as fixed."""


class VisionGraph(nn.Module):
    """frames -> visual_tokens, token_sizes, token_of_patch; then the residual stream after each block."""

    def __init__(self, model: AuroraModel) -> None:
        super().__init__()
        # The two submodules register the weights; the language model's are none of this graph's business.
        self.vision, self.projector, self.encode = model.vision, model.projector, model.encode_frames

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        """frames: uint8, shape (F, S, S, 3)."""
        with residuals_of(self.vision.encoder.layers) as residuals:
            output = self.encode(frames)
        return (*output, *residuals)


class LanguageGraph(nn.Module):
    """embeddings and state -> logits and next state; then the residual stream after each block."""

    def __init__(self, language: Rwkv) -> None:
        super().__init__()
        self.language = language

    def forward(self, embeddings: Tensor, att_shift: Tensor, ffn_shift: Tensor, wkv: Tensor) -> tuple[Tensor, ...]:
        """embeddings: shape (B, T, E); state as in `LanguageState`."""
        with residuals_of(self.language.blocks) as residuals:
            logits, state = self.language(embeddings, LanguageState(att_shift, ffn_shift, wkv))
        return (logits, *state, *residuals)


@contextmanager
def residuals_of(blocks: nn.ModuleList) -> Iterator[list[Tensor]]:
    """Collect the residual stream after each block, the first item of what the block returns, while this is open."""
    residuals: list[Tensor] = []

    def keep(_block: nn.Module, _inputs: tuple[Tensor, ...], output: Sequence[Tensor]) -> None:
        residuals.append(output[0])

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        yield residuals
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Graph:
    """One graph, ready to be traced."""

    name: str
    config: AuroraConfig
    module: nn.Module
    spec: GraphSpec
    layer_outputs: tuple[str, ...]
    """names of the residual stream after each block: outputs of `module` after those of `spec`"""
    wkv_nodes: dict[str, int]
    """how many nodes of each of our operators it must have"""
    read_weight: Callable[[str], Tensor]
    """parameter name of `module` -> float32 tensor"""

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs of the shapes of EXAMPLE_SIZES: distinct tensors, or torch.export would make one input of two."""
        return tuple(
            torch.zeros(spec.resolve(**EXAMPLE_SIZES), dtype=getattr(torch, spec.dtype)) for spec in self.spec.inputs
        )


def build_graphs(model: AuroraModel) -> dict[str, Graph]:
    """The vision and the language graph of a model. Nothing is read or copied, and `model` is not changed."""
    config = model.config
    with torch.device("meta"):
        twin = AuroraModel(config, wkv=TORCH_OPS[config.language.version])
    # Memory that nobody writes to takes no room; on the meta device constants made while tracing would be lost.
    twin.to_empty(device="cpu")
    twin.eval().requires_grad_(False)
    specs = graphs(config)
    return {
        "vision": Graph(
            name="vision",
            config=config,
            module=VisionGraph(twin).eval(),
            spec=specs["vision"],
            layer_outputs=tuple(f"vision.layers.{i}" for i in range(config.vision.layers_used)),
            wkv_nodes={},
            read_weight=model.weight,
        ),
        "language": Graph(
            name="language",
            config=config,
            module=LanguageGraph(twin.language).eval(),
            spec=specs["language"],
            layer_outputs=tuple(f"language.layers.{i}" for i in range(config.language.n_layers)),
            wkv_nodes={f"Wkv{config.language.version}": config.language.n_layers},
            read_weight=model.weight,
        ),
    }
