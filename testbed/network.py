"""The testbed's sizes, and how its untrained weights are drawn. The network itself is `model/`, the product's own."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.model.language import Rwkv
from aurora_export.model.vision import VisionTower
from vocabulary import vocabulary_size

INSTRUCTION = "Watch the video, then answer the question."
KEPT_RATIO = 0.1

_LOW_RANK_STD = 0.02
_EMBEDDING_STD = 0.5


def make_config(*, kept_ratio: float = KEPT_RATIO, order: str = "ascending") -> AuroraConfig:
    """The testbed's configuration: profile `released`, 64 patches a frame, of which 9 tokens are left at ratio 0.1."""
    sizes: dict[str, dict[str, Any]] = {
        "vision": {
            "image_size": 64, "patch_size": 8, "width": 64, "n_layers": 6, "layers_used": 6, "n_heads": 4,
            "mlp_width": 192,
        },
        "projector": {"hidden_width": 128},
        "language": {
            "version": 6, "n_layers": 3, "width": 128, "head_size": 64, "ffn_width": 448,
            "vocabulary_size": vocabulary_size(), "low_ranks": {"mix": 16, "decay": 16},
        },
    }  # fmt: skip
    merge = {"kept_ratio": kept_ratio, "order": order, "sort": "none" if order == "none" else "per_layer"}
    return config_from_parts(sizes, overrides=[{"merge": merge, "prompt": {"instruction": INSTRUCTION}}])


def unmerged_config() -> AuroraConfig:
    """The same tower with every patch kept: what the vision tower is trained with."""
    config = make_config(kept_ratio=1.0)
    return config.model_copy(update={"merge": config.merge.model_copy(update={"drop_first": False})})


def draw_vision_weights(tower: VisionTower) -> None:
    """Truncated normal matrices, zero biases; LayerNorms as they are."""
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.5 / math.sqrt(module.weight[0].numel()))
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


def draw_language_weights(model: Rwkv) -> None:
    """RWKV-6's own starting point for mixes and decays; livelier low-rank matrices, which a short training needs."""
    config = model.config
    width, n_layers = config.width, config.n_layers
    channel = torch.arange(width) / width
    nn.init.normal_(model.emb.weight, std=_EMBEDDING_STD)
    nn.init.normal_(model.head.weight, std=0.5 / math.sqrt(width))
    for layer, block in enumerate(model.blocks):
        depth, left = layer / max(1, n_layers - 1), 1 - layer / n_layers
        with torch.no_grad():
            for name, parameter in block.named_parameters():
                leaf = name.split(".")[-1]
                if leaf in ("time_maa_x", "time_maa_w", "time_maa_k"):
                    parameter.copy_((1 - channel**left).expand_as(parameter))
                elif leaf == "time_maa_v":
                    parameter.copy_((1 - (channel**left + 0.3 * depth)).expand_as(parameter))
                elif leaf in ("time_maa_r", "time_maa_g"):
                    parameter.copy_((1 - channel ** (0.5 * left)).expand_as(parameter))
                elif leaf in ("time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"):
                    parameter.normal_(std=_LOW_RANK_STD)
                elif leaf == "time_decay":
                    parameter.copy_((-6 + 5.5 * channel ** (0.7 + 1.3 * depth)).expand_as(parameter))
                elif leaf == "time_faaaa":
                    parameter.copy_((depth * (1 - channel) + 0.1 * ((torch.arange(width) % 3) - 1)).view_as(parameter))
        for name, module in block.named_modules():
            if isinstance(module, nn.Linear):
                gain = 0.5 if name.endswith(("output", "value")) and "att.value" not in name else 1.0
                nn.init.normal_(module.weight, std=gain / math.sqrt(module.in_features))
