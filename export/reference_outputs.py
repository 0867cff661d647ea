"""The reference's outputs under the contract's names: plain arrays in and out, as an engine's `run`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from aurora_export.config import AuroraConfig
from aurora_export.contract import STATE_NAMES, state_specs, vision_graph
from aurora_export.export.graphs import residuals_of
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.language import Block
from aurora_export.model.vision import normalise_frames


@dataclass(frozen=True)
class LanguageRun:
    """One run of the language model."""

    embeddings: np.ndarray
    """shape (B, T, E)"""
    before: Mapping[str, np.ndarray] | int | None = None
    """the state that it begins with: arrays by STATE_NAMES, the number of an earlier run to continue, or zero"""
    rounded: bool = False
    """change embeddings and state by up to one unit in the last place first"""


class Reference:
    """An AuroraModel as it is, token by token: nothing that was changed for the export runs here.

    Of a `StreamedModel` it holds the tower or one block of the language model at a time.
    """

    def __init__(self, model: AuroraModel) -> None:
        """model: float32, in eval mode."""
        self.model, self.config = model, model.config

    @property
    def embedding_table(self) -> np.ndarray:
        """float32, shape (V, E); of a streamed model read anew each time."""
        return self.model.weight("language.emb.weight").numpy()

    @torch.inference_mode()
    def run_vision(self, frames: np.ndarray, *, layers: bool = False, rounded: bool = False) -> dict[str, np.ndarray]:
        """Run the vision graph.

        frames: uint8, shape (F, S, S, 3).  layers: also return "vision.layers.<i>".
        rounded: change every normalised pixel by up to one unit in the last place first.
        """
        pixels = normalise_frames(torch.from_numpy(frames), self.config.frames)
        if rounded:
            pixels = torch.from_numpy(change_last_place(pixels.numpy()))
        with self.model.held("vision.", "projector."):
            with residuals_of(self.model.vision.encoder.layers) as residuals:
                output = self.model.vision(pixels)
            values = output._replace(tokens=self.model.projector(output.tokens))
        names = [spec.name for spec in vision_graph(self.config).outputs]
        arrays = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return arrays | (_named("vision", residuals) if layers else {})

    def run_language(
        self, embeddings: np.ndarray, state: Mapping[str, np.ndarray], *, layers: bool = False
    ) -> dict[str, np.ndarray]:
        """Run the language graph.

        embeddings: shape (B, T, E).  state: arrays by STATE_NAMES.  layers: also return "language.layers.<i>".
        """
        return self.run_languages([LanguageRun(embeddings, state)], layers=layers)[0]

    @torch.inference_mode()
    def run_languages(self, runs: Sequence[LanguageRun], *, layers: bool = False) -> list[dict[str, np.ndarray]]:
        """The outputs of several runs of the language graph, block by block side by side: each is read once for all.

        What `Rwkv.forward` does with all blocks in memory; a test compares the two.
        """
        model, sides = self.model.language, [_RunSoFar(run, self.config) for run in runs]
        for layer, block in enumerate(cast("Iterable[Block]", model.blocks)):
            with self.model.held(f"language.blocks.{layer}."):
                for side in sides:
                    if layer == 0:
                        side.x = block.ln0(side.x)  # applied to every embedding, visual ones included
                    side.advance(block, layer, sides)
        with self.model.held("language.ln_out.", "language.head."):
            return [side.outputs(model.head(model.ln_out(side.x[:, -1])), layers=layers) for side in sides]

    def state_after(self, embeddings: np.ndarray) -> dict[str, np.ndarray]:
        """The state that some tokens leave behind: a natural one that is not zero. embeddings: shape (B, T, E)."""
        return next_state(self.run_languages([LanguageRun(embeddings)])[0])


class _RunSoFar:
    """A run between two blocks: the residual stream, and the states that the blocks have left."""

    def __init__(self, run: LanguageRun, config: AuroraConfig) -> None:
        self.run, self.config = run, config
        self.x = torch.from_numpy(change_last_place(run.embeddings) if run.rounded else run.embeddings)
        self.states: list[tuple[torch.Tensor, ...]] = []
        self.residuals: list[torch.Tensor] = []
        self.v_first: torch.Tensor | None = None

    def advance(self, block: Block, layer: int, others: Sequence[_RunSoFar]) -> None:
        """Run one block; `others` are those that a run may continue."""
        self.x, *state, self.v_first = block(self.x, *self._state_before(layer, others), self.v_first)
        self.states.append(tuple(state))
        self.residuals.append(self.x)

    def _state_before(self, layer: int, others: Sequence[_RunSoFar]) -> tuple[torch.Tensor, ...]:
        before = self.run.before
        if before is None:
            shapes = (spec.resolve(B=len(self.x))[1:] for spec in state_specs(self.config))
            return tuple(torch.zeros(shape) for shape in shapes)
        if isinstance(before, int):
            state = others[before].states[layer]
        else:
            state = tuple(torch.from_numpy(before[name][layer]) for name in STATE_NAMES)
        return tuple(torch.from_numpy(change_last_place(s.numpy())) for s in state) if self.run.rounded else state

    def outputs(self, logits: torch.Tensor, *, layers: bool) -> dict[str, np.ndarray]:
        """By their names in the contract, and the residual streams if asked for."""
        stacked = (torch.stack(states).numpy() for states in zip(*self.states, strict=True))
        arrays = {"logits": logits.numpy()} | {f"next_{name}": s for name, s in zip(STATE_NAMES, stacked, strict=True)}
        return arrays | (_named("language", self.residuals) if layers else {})


def change_last_place(array: np.ndarray) -> np.ndarray:
    """Change float32 numbers by up to one unit in the last place, from a fixed seed; zeros stay."""
    noise = np.random.default_rng(0).uniform(-1, 1, array.shape)
    return (array * (1 + np.finfo(np.float32).eps * noise)).astype(np.float32)


def next_state(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state in the outputs of a run, named as the inputs of the next one."""
    return {name: outputs[f"next_{name}"] for name in STATE_NAMES}


def _named(graph: str, residuals: list[torch.Tensor]) -> dict[str, np.ndarray]:
    return {f"{graph}.layers.{i}": residual.numpy() for i, residual in enumerate(residuals)}
