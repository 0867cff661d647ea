"""The vision tower: a SigLIP ViT that merges and sorts its tokens inside every block.

Here a frame becomes tokens: patches in `VisionTower.forward`, fewer of them after each `VisionBlock`.
Module names are those of the SigLIP checkpoints, without the prefix `vision_model.`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from aurora_export.config import AuroraConfig, FramesConfig, MergeConfig, VisionConfig
from aurora_export.model.merging import Tokens, merge_and_sort, sort_by_size


class VisionOutput(NamedTuple):
    """What the tower makes of F frames."""

    tokens: Tensor
    """features before the projector, in the profile's order (ascending size), shape (F, K, D)"""
    sizes: Tensor
    """patches merged into each token, int32, shape (F, K)"""
    token_of_patch: Tensor
    """index of the token that took each patch, -1 if that token was dropped, int32, shape (F, P)"""


def normalise_frames(frames: Tensor, config: FramesConfig) -> Tensor:
    """uint8 frames, shape (F, S, S, 3), RGB, to float32 pixels, shape (F, 3, S, S), by the profile's mean and std."""
    mean = torch.tensor(config.mean, device=frames.device)
    std = torch.tensor(config.std, device=frames.device)
    return ((frames.to(torch.float32) * (1 / 255) - mean) / std).permute(0, 3, 1, 2)


class Embeddings(nn.Module):
    """Patches, row by row, plus learned positions."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch_size, stride=config.patch_size)
        self.position_embedding = nn.Embedding(config.n_patches, config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: shape (F, 3, S, S).  Returns shape (F, P, D)."""
        return self.patch_embedding(pixels).flatten(2).mT + self.position_embedding.weight


class Attention(nn.Module):
    """Multi-head self-attention that also returns what similarity is measured on."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.n_heads, self.scale = config.n_heads, config.head_size**-0.5
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, h: Tensor, log_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend.

        h: normed tokens, shape (F, T, D).
        log_sizes: log of the token sizes, added along the keys (proportional attention), shape (F, T), or None.
        Returns the update (F, T, D) and the metric: keys averaged over the heads, (F, T, D / heads).
        """
        q, k, v = (
            proj(h).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        logits = (q * self.scale) @ k.mT
        if log_sizes is not None:
            logits = logits + log_sizes[:, None, None, :]
        mixed = (torch.softmax(logits, dim=-1) @ v).transpose(1, 2).flatten(2)
        return self.out_proj(mixed), k.mean(dim=1)


class Mlp(nn.Module):
    """fc2(GELU(fc1(x))), with the tanh approximation of GELU."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """x: shape (F, T, D), and so is the result."""
        return self.fc2(gelu(self.fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    """Attention, merging, sorting, MLP, in this order (Algorithm 1)."""

    def __init__(self, config: VisionConfig, merge: MergeConfig, r: int) -> None:
        """r: how many tokens this block merges away."""
        super().__init__()
        self.r, self.merge = r, merge
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, tokens: Tokens) -> Tokens:
        """T tokens a frame in, T - r out."""
        log_sizes = tokens.sizes.log() if self.merge.proportional_attention else None
        update, metric = self.self_attn(self.layer_norm1(tokens.x), log_sizes)
        tokens = merge_and_sort(tokens._replace(x=tokens.x + update), metric, self.r, self.merge)
        return tokens._replace(x=tokens.x + self.mlp(self.layer_norm2(tokens.x)))


class Encoder(nn.Module):
    """The blocks that run; the checkpoint's later ones are not loaded."""

    def __init__(self, config: AuroraConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionBlock(config.vision, config.merge, r) for r in config.merges_per_layer)


class VisionTower(nn.Module):
    """SigLIP with S-ToMe: pixels to K tokens a frame, no post-layernorm (features are taken inside the tower)."""

    def __init__(self, config: AuroraConfig) -> None:
        super().__init__()
        self.merge = config.merge
        self.embeddings = Embeddings(config.vision)
        self.encoder = Encoder(config)

    def forward(self, pixels: Tensor) -> VisionOutput:
        """pixels: normalised, shape (F, 3, S, S)."""
        x = self.embeddings(pixels)
        n_frames, n_patches, _ = x.shape
        patches = torch.arange(n_patches, device=x.device)
        tokens = Tokens(x, torch.ones_like(x[..., 0], dtype=torch.float32), patches.expand(n_frames, -1))
        for block in self.encoder.layers:
            tokens = block(tokens)
        if self.merge.sort == "final":
            tokens = sort_by_size(tokens, self.merge)
        n_dropped = int(self.merge.drop_first)
        return VisionOutput(
            tokens=tokens.x[:, n_dropped:],
            sizes=tokens.sizes[:, n_dropped:].to(torch.int32),
            token_of_patch=(tokens.owner - n_dropped).to(torch.int32),
        )
