"""The reference's outputs under the contract's names: plain arrays in and out, as an engine's `run`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from aurora_export.contract import STATE_NAMES, language_graph, state_specs, vision_graph
from aurora_export.export.graphs import residuals_of
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.language import LanguageState
from aurora_export.model.vision import normalise_frames


class Reference:
    """An AuroraModel as it is, token by token: nothing that was changed for the export runs here."""

    def __init__(self, model: AuroraModel) -> None:
        """model: float32, in eval mode."""
        self.model, self.config = model, model.config

    @property
    def embedding_table(self) -> np.ndarray:
        """float32, shape (V, E); not a copy."""
        return self.model.language.emb.weight.detach().numpy()

    @torch.inference_mode()
    def run_vision(self, frames: np.ndarray, *, layers: bool = False, rounded: bool = False) -> dict[str, np.ndarray]:
        """Run the vision graph.

        frames: uint8, shape (F, S, S, 3).  layers: also return "vision.layers.<i>".
        rounded: change every normalised pixel by up to one unit in the last place first.
        """
        pixels = normalise_frames(torch.from_numpy(frames), self.config.frames)
        if rounded:
            pixels = torch.from_numpy(change_last_place(pixels.numpy()))
        with residuals_of(self.model.vision.encoder.layers) as residuals:
            output = self.model.vision(pixels)
        values = output._replace(tokens=self.model.projector(output.tokens))
        names = [spec.name for spec in vision_graph(self.config).outputs]
        arrays = {name: value.numpy() for name, value in zip(names, values, strict=True)}
        return arrays | (_named("vision", residuals) if layers else {})

    @torch.inference_mode()
    def run_language(
        self, embeddings: np.ndarray, state: Mapping[str, np.ndarray], *, layers: bool = False
    ) -> dict[str, np.ndarray]:
        """Run the language graph.

        embeddings: shape (B, T, E).  state: arrays by STATE_NAMES.  layers: also return "language.layers.<i>".
        """
        before = LanguageState(*(torch.from_numpy(state[name]) for name in STATE_NAMES))
        with residuals_of(self.model.language.blocks) as residuals:
            logits, after = self.model.language(torch.from_numpy(embeddings), before)
        names = [spec.name for spec in language_graph(self.config).outputs]
        arrays = {name: value.numpy() for name, value in zip(names, (logits, *after), strict=True)}
        return arrays | (_named("language", residuals) if layers else {})

    def state_after(self, embeddings: np.ndarray) -> dict[str, np.ndarray]:
        """The state that some tokens leave behind: a natural one that is not zero. embeddings: shape (B, T, E)."""
        zero = {spec.name: np.zeros(spec.resolve(B=len(embeddings)), np.float32) for spec in state_specs(self.config)}
        return next_state(self.run_language(embeddings, zero))


def change_last_place(array: np.ndarray) -> np.ndarray:
    """Change float32 numbers by up to one unit in the last place, from a fixed seed; zeros stay."""
    noise = np.random.default_rng(0).uniform(-1, 1, array.shape)
    return (array * (1 + np.finfo(np.float32).eps * noise)).astype(np.float32)


def next_state(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state in the outputs of a run, named as the inputs of the next one."""
    return {name: outputs[f"next_{name}"] for name in STATE_NAMES}


def _named(graph: str, residuals: list[torch.Tensor]) -> dict[str, np.ndarray]:
    return {f"{graph}.layers.{i}": residual.numpy() for i, residual in enumerate(residuals)}
