"""AuroraLong in plain torch: tower, projector and language model joined. The truth, not the fast way.

frames ─ VisionTower ─ Projector ─► visual tokens ─┐
text ──────────────────── Rwkv.emb ─► embeddings ──┴► Rwkv ─► logits, state
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aurora_export.config import AuroraConfig
from aurora_export.model.language import LanguageState, Rwkv
from aurora_export.model.projector import Projector
from aurora_export.model.vision import VisionOutput, VisionTower, normalise_frames
from aurora_export.plugins.wkv import Wkv6, Wkv7


class AuroraModel(nn.Module):
    """The reference model. Attributes are the parts: `vision`, `projector`, `language`."""

    def __init__(self, config: AuroraConfig, *, wkv: Wkv6 | Wkv7 | None = None) -> None:
        """wkv: another implementation of the recurrence; None means token by token, the truth."""
        super().__init__()
        self.config = config
        self.vision = VisionTower(config)
        self.projector = Projector(config)
        self.language = Rwkv(config.language, wkv=wkv)

    def weight(self, name: str) -> Tensor:
        """A parameter by its name in the state dict, float32."""
        return self.get_parameter(name).detach()

    @contextmanager
    def held(self, *prefixes: str) -> Iterator[None]:
        """Parameters whose names begin with one of `prefixes` are in memory while this is open: here, all always are.

        What runs a part of a model opens this first, so that it can run a `StreamedModel` too.
        """
        yield

    def encode_frames(self, frames: Tensor) -> VisionOutput:
        """Frames to visual tokens.

        frames: uint8, shape (F, S, S, 3), RGB.
        Returns projected tokens (F, K, E) with the sizes and owners of `VisionOutput`.
        """
        output = self.vision(normalise_frames(frames, self.config.frames))
        return output._replace(tokens=self.projector(output.tokens))

    def embed_ids(self, ids: Sequence[int]) -> Tensor:
        """Token ids to embeddings, shape (1, T, E)."""
        return self.language.emb(torch.tensor([list(ids)], dtype=torch.int64))

    @torch.inference_mode()
    def generate(self, embeddings: Tensor, state: LanguageState | None = None, *, max_tokens: int) -> Iterator[int]:
        """Greedy answer to one prompt of embeddings, shape (1, T, E): ids until a stop id or `max_tokens`.

        Of equal logits the lowest id wins. The stop id itself is not yielded.
        """
        logits, state = self.language(embeddings, state or self.language.zero_state())
        for _ in range(max_tokens):
            token = int(logits[0].argmax())
            if token in self.config.prompt.stop_ids:
                return
            yield token
            logits, state = self.language(self.embed_ids([token]), state)
