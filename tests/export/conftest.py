"""Tiny random models and their exported graphs, each made once per session."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.model.aurora import AuroraModel

LOW_RANKS = {6: {"mix": 8, "decay": 8}, 7: {"decay": 8, "rate": 8, "value": 8, "gate": 8}}


def tiny_config(version: int = 6, profile: str = "released", **merge: Any) -> AuroraConfig:
    """64 patches, 4 layers that run of 5, and a language model of 3 layers and 2 heads."""
    sizes = {
        "vision": {"image_size": 64, "patch_size": 8, "width": 32, "n_layers": 5, "n_heads": 2, "mlp_width": 64},
        "projector": {"hidden_width": 48},
        "language": {
            "version": version,
            "n_layers": 3,
            "width": 64,
            "head_size": 32,
            "ffn_width": 96,
            "vocabulary_size": 100,
            "low_ranks": LOW_RANKS[version],
        },
    }
    return config_from_parts(sizes, profile=profile, overrides=[{"merge": merge}])


def tiny_model(config: AuroraConfig, seed: int = 0) -> AuroraModel:
    """Random weights of sizes at which every part of the network does something."""
    model = AuroraModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        scale = 0.3 if parameter.ndim < 2 or "maa" in name else 0.15
        with torch.no_grad():
            parameter.normal_(std=scale, generator=generator)
    return model.requires_grad_(False)
