"""The language model: RWKV-6 or RWKV-7 with explicit state, from embeddings to logits.

A visual token and a word are the same thing here: one embedding of width E. Where a token becomes state
is `Block.forward`; the recurrence itself is `plugins/wkv/reference.py`.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from aurora_export.config import LanguageConfig
from aurora_export.model.rwkv6 import ChannelMix6, TimeMix6
from aurora_export.model.rwkv7 import ChannelMix7, TimeMix7
from aurora_export.plugins.wkv import Wkv6, Wkv7
from aurora_export.plugins.wkv.reference import wkv6_recurrent, wkv7_recurrent


class LanguageState(NamedTuple):
    """All that the model remembers; constant in size. Shift vectors in the model's dtype, wkv in float32."""

    att_shift: Tensor
    """last input of each time mix, shape (L, B, E)"""
    ffn_shift: Tensor
    """last input of each channel mix, shape (L, B, E)"""
    wkv: Tensor
    """shape (L, B, H, N, N), indexed [key, value]"""


class Block(nn.Module):
    """One RWKV block: time mix and channel mix, each behind a LayerNorm and added to the residual."""

    def __init__(self, config: LanguageConfig, layer: int, wkv: Wkv6 | Wkv7 | None) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.ln1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.ln2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        if config.version == 6:
            self.att: nn.Module = TimeMix6(config, cast("Wkv6", wkv or wkv6_recurrent))
            self.ffn: nn.Module = ChannelMix6(config)
        else:
            self.att = TimeMix7(config, layer, cast("Wkv7", wkv or wkv7_recurrent))
            self.ffn = ChannelMix7(config)

    def forward(
        self, x: Tensor, att_shift: Tensor, ffn_shift: Tensor, wkv: Tensor, v_first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """x: shape (B, T, E); shifts: shape (B, E); wkv: shape (B, H, N, N). Returns the same, one block further."""
        update, att_shift, wkv, v_first = self.att(self.ln1(x), att_shift, wkv, v_first)
        x = x + update
        update, ffn_shift = self.ffn(self.ln2(x), ffn_shift)
        return x + update, att_shift, ffn_shift, wkv, v_first


class Rwkv(nn.Module):
    """RWKV-6 or RWKV-7. Module names are the checkpoint's: emb, blocks.{i}.att|ffn, ln_out, head."""

    def __init__(self, config: LanguageConfig, *, wkv: Wkv6 | Wkv7 | None = None) -> None:
        """wkv: another implementation of the recurrence (chunked, custom op); None means token by token."""
        super().__init__()
        self.config = config
        self.emb = nn.Embedding(config.vocabulary_size, config.width)
        self.blocks = nn.ModuleList(Block(config, layer, wkv) for layer in range(config.n_layers))
        self.ln_out = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.width, config.vocabulary_size, bias=False)

    def zero_state(self, n_sequences: int = 1) -> LanguageState:
        """The state before the first token, for a batch of B = n_sequences."""
        config, parameter = self.config, self.ln_out.weight
        shift = parameter.new_zeros(config.n_layers, n_sequences, config.width)
        wkv = torch.zeros(
            (config.n_layers, n_sequences, config.n_heads, config.head_size, config.head_size), device=parameter.device
        )
        return LanguageState(shift, shift.clone(), wkv)

    def forward(
        self, embeddings: Tensor, state: LanguageState, *, all_positions: bool = False
    ) -> tuple[Tensor, LanguageState]:
        """Run T tokens.

        embeddings: words or visual tokens, before ln0, shape (B, T, E).
        Returns logits of the last position, shape (B, V), or of all, shape (B, T, V); and the next state.
        """
        x, state = self.hidden(embeddings, state)
        return self.head(self.ln_out(x if all_positions else x[:, -1])), state

    def hidden(self, embeddings: Tensor, state: LanguageState) -> tuple[Tensor, LanguageState]:
        """Run the blocks: embeddings (B, T, E) to the residual stream after the last block (B, T, E)."""
        x = cast("Block", self.blocks[0]).ln0(embeddings)  # applied to every embedding, visual ones included
        v_first: Tensor | None = None
        att_shifts, ffn_shifts, wkvs = [], [], []
        for layer, block in enumerate(self.blocks):
            x, att_shift, ffn_shift, wkv, v_first = block(
                x, state.att_shift[layer], state.ffn_shift[layer], state.wkv[layer], v_first
            )
            att_shifts.append(att_shift)
            ffn_shifts.append(ffn_shift)
            wkvs.append(wkv)
        return x, LanguageState(torch.stack(att_shifts), torch.stack(ffn_shifts), torch.stack(wkvs))
