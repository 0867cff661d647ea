"""RWKV-7 "Goose" (x070, arXiv 2503.14456): time mix and channel mix of one block. Names are the checkpoint's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, normalize, relu

from aurora_export.config import LanguageConfig
from aurora_export.model.token_shift import shift_tokens
from aurora_export.plugins.wkv import Wkv7

MAX_DECAY_RATE = math.exp(-0.5)
"""log-decay is -exp(-0.5) * sigmoid(.), so a decay is never under 0.545."""


def _vector(width: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, width))


def _low_rank(width: int, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.empty(width, rank)), nn.Parameter(torch.empty(rank, width))


class TimeMix7(nn.Module):
    """Token mixing by the generalised delta rule (arXiv 2503.14456, section 4)."""

    def __init__(self, config: LanguageConfig, layer: int, wkv: Wkv7) -> None:
        super().__init__()
        width, ranks = config.width, config.low_ranks
        self.n_heads, self.head_size, self.group_norm_eps = config.n_heads, config.head_size, config.group_norm_eps
        self.wkv = wkv
        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = (_vector(width) for _ in range(6))
        # Low-rank maps: w decay, a in-context rate, v value residual (not in the first layer), g gate (no offset).
        self.w0, (self.w1, self.w2) = _vector(width), _low_rank(width, ranks["decay"])
        self.a0, (self.a1, self.a2) = _vector(width), _low_rank(width, ranks["rate"])
        if layer > 0:
            self.v0, (self.v1, self.v2) = _vector(width), _low_rank(width, ranks["value"])
        self.g1, self.g2 = _low_rank(width, ranks["gate"])
        self.k_k = _vector(width)
        self.k_a = _vector(width)
        self.r_k = nn.Parameter(torch.empty(config.n_heads, config.head_size))
        self.receptance = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.ln_x = nn.LayerNorm(width)

    def forward(
        self, z: Tensor, shift: Tensor, state: Tensor, v_first: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Mix tokens.

        z: normed input, shape (B, T, E).  shift: previous z, shape (B, E).  state: shape (B, H, N, N), float32.
        v_first: the first layer's values of the same tokens, shape (B, T, E); None in the first layer.
        Returns the residual update (B, T, E), the next shift, the next state, v_first.
        """
        previous, shift = shift_tokens(z, shift)
        delta = previous - z
        z_r, z_w, z_k, z_v, z_a, z_g = (
            z + delta * mix for mix in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        )
        receptance, key, value = self.receptance(z_r), self.key(z_k), self.value(z_v)
        log_decay = -MAX_DECAY_RATE * torch.sigmoid(self.w0 + torch.tanh(z_w @ self.w1) @ self.w2)
        rate = torch.sigmoid(self.a0 + (z_a @ self.a1) @ self.a2)
        gate = torch.sigmoid(z_g @ self.g1) @ self.g2
        if v_first is None:
            v_first = value
        else:
            value = value + (v_first - value) * torch.sigmoid(self.v0 + (z_v @ self.v1) @ self.v2)
        removal = normalize(self._heads(key * self.k_k), dim=-1, eps=1e-12)
        key = key * (1 + (rate - 1) * self.k_a)
        receptance, log_decay, key, value, rate = (self._heads(x) for x in (receptance, log_decay, key, value, rate))
        y, state = self.wkv(receptance, log_decay, key, value, -removal, removal * rate, state)
        y = layer_norm(y, (self.head_size,), eps=self.group_norm_eps).flatten(2) * self.ln_x.weight + self.ln_x.bias
        y = y + ((receptance * key * self.r_k).sum(-1, keepdim=True) * value).flatten(2)
        return self.output(y * gate), shift, state, v_first

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, H, N)."""
        return x.unflatten(-1, (self.n_heads, self.head_size))


class ChannelMix7(nn.Module):
    """Squared-ReLU feed-forward, without a gate (arXiv 2503.14456, section 4)."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(1, 1, config.width))
        self.key = nn.Linear(config.width, config.ffn_width, bias=False)
        self.value = nn.Linear(config.ffn_width, config.width, bias=False)

    def forward(self, z: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """z: normed input, shape (B, T, E).  shift: previous z, shape (B, E).  Returns update and next shift."""
        previous, shift = shift_tokens(z, shift)
        return self.value(relu(self.key(z + (previous - z) * self.x_k)) ** 2), shift
