"""RWKV-6 "Finch" (x060, arXiv 2404.05892): time mix and channel mix of one block. Names are the checkpoint's."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, relu, silu

from aurora_export.config import LanguageConfig
from aurora_export.model.token_shift import shift_tokens
from aurora_export.plugins.wkv import Wkv6

N_MIXES = 5
"""Data-dependent mixes, in the order of time_maa_w2: decay (w), key, value, receptance, gate."""


class TimeMix6(nn.Module):
    """Token mixing with data-dependent decay (arXiv 2404.05892, section 4)."""

    def __init__(self, config: LanguageConfig, wkv: Wkv6) -> None:
        super().__init__()
        width, mix_rank, decay_rank = config.width, config.low_ranks["mix"], config.low_ranks["decay"]
        self.n_heads, self.head_size, self.group_norm_eps = config.n_heads, config.head_size, config.group_norm_eps
        self.wkv = wkv
        self.time_maa_x = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_w = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_k = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_v = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_r = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_g = nn.Parameter(torch.empty(1, 1, width))
        self.time_maa_w1 = nn.Parameter(torch.empty(width, N_MIXES * mix_rank))
        self.time_maa_w2 = nn.Parameter(torch.empty(N_MIXES, mix_rank, width))
        self.time_decay = nn.Parameter(torch.empty(1, 1, width))
        self.time_decay_w1 = nn.Parameter(torch.empty(width, decay_rank))
        self.time_decay_w2 = nn.Parameter(torch.empty(decay_rank, width))
        self.time_faaaa = nn.Parameter(torch.empty(config.n_heads, config.head_size))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = nn.LayerNorm(width)

    def forward(
        self, z: Tensor, shift: Tensor, state: Tensor, v_first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Mix tokens.

        z: normed input, shape (B, T, E).  shift: previous z, shape (B, E).  state: shape (B, H, N, N), float32.
        v_first: belongs to RWKV-7; passed through.
        Returns the residual update (B, T, E), the next shift, the next state, v_first.
        """
        previous, shift = shift_tokens(z, shift)
        z_w, z_k, z_v, z_r, z_g = self._mixed_inputs(z, previous - z)
        log_decay = -torch.exp(self.time_decay + torch.tanh(z_w @ self.time_decay_w1) @ self.time_decay_w2)
        receptance, key, value, log_decay = (
            x.unflatten(-1, (self.n_heads, self.head_size))
            for x in (self.receptance(z_r), self.key(z_k), self.value(z_v), log_decay)
        )
        y, state = self.wkv(receptance, key, value, log_decay, self.time_faaaa, state)
        y = layer_norm(y, (self.head_size,), eps=self.group_norm_eps).flatten(2) * self.ln_x.weight + self.ln_x.bias
        return self.output(y * silu(self.gate(z_g))), shift, state, v_first

    def _mixed_inputs(self, z: Tensor, delta: Tensor) -> list[Tensor]:
        """The five inputs z + delta * (maa_j + m_j), where m_j depends on the data. Shapes (B, T, E)."""
        hidden = torch.tanh((z + delta * self.time_maa_x) @ self.time_maa_w1)
        # One product per mix over all tokens: broadcasting w2 to every token is 3 times slower.
        hidden = hidden.unflatten(-1, (N_MIXES, -1)).permute(2, 0, 1, 3).flatten(1, 2)
        mixes = (hidden @ self.time_maa_w2).unflatten(1, z.shape[:2])
        static = (self.time_maa_w, self.time_maa_k, self.time_maa_v, self.time_maa_r, self.time_maa_g)
        return [z + delta * (maa + mixes[j]) for j, maa in enumerate(static)]


class ChannelMix6(nn.Module):
    """Squared-ReLU feed-forward with a receptance gate (arXiv 2404.05892, section 4)."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.time_maa_k = nn.Parameter(torch.empty(1, 1, config.width))
        self.time_maa_r = nn.Parameter(torch.empty(1, 1, config.width))
        self.key = nn.Linear(config.width, config.ffn_width, bias=False)
        self.receptance = nn.Linear(config.width, config.width, bias=False)
        self.value = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, z: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """z: normed input, shape (B, T, E).  shift: previous z, shape (B, E).  Returns update and next shift."""
        previous, shift = shift_tokens(z, shift)
        delta = previous - z
        hidden = relu(self.key(z + delta * self.time_maa_k)) ** 2
        return torch.sigmoid(self.receptance(z + delta * self.time_maa_r)) * self.value(hidden), shift
