from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aurora_export.config import config_from_parts
from aurora_export.manifest import read_manifest
from aurora_export.model.language import Rwkv
from aurora_export.model.projector import Projector
from aurora_export.model.vision import VisionTower
from aurora_export.runtime.workload import language_operations, language_weight_bytes, vision_operations
from handmade_bundle import handmade_config

RANKS = {6: {"mix": 2, "decay": 3}, 7: {"decay": 2, "rate": 3, "value": 2, "gate": 4}}
RECURRENT = ("time_faaaa", "r_k")
"""Parameters with two sizes that are no matrix of a product."""


def config_of(*, version: int = 6, kept_ratio: float = 0.5):
    sizes = handmade_config().model_dump()
    sizes["language"] |= {"version": version, "low_ranks": RANKS[version]}
    sizes["merge"]["kept_ratio"] = kept_ratio
    sizes.pop("profile")
    return config_from_parts(sizes)


@pytest.mark.parametrize("version", [6, 7])
def test_a_token_multiplies_every_matrix_once(version):
    config = config_of(version=version)
    model = Rwkv(config.language)
    matrices = sum(
        parameter.numel()
        for name, parameter in model.blocks.named_parameters()
        if sum(size > 1 for size in parameter.shape) > 1 and not name.endswith(RECURRENT)
    )
    if version == 7:
        matrices += 2 * config.language.width * RANKS[7]["value"]  # the first layer has none
    head = model.head.weight.numel()
    assert language_operations(config, 1) == 2 * (matrices + head)
    assert language_operations(config, 300, n_runs=2) == 2 * (300 * matrices + 2 * head)


def test_a_frame_without_merging_as_torch_counts_it():
    config = config_of(kept_ratio=1)
    tower, projector = VisionTower(config), Projector(config)
    side = config.vision.image_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        projector(tower(torch.zeros(1, 3, side, side)).tokens)
    assert vision_operations(config) == counter.get_total_flops()


def test_merging_saves_operations():
    """From attention on n to an MLP on n - r tokens, block by block."""
    config = config_of()
    n, width, mlp = config.vision.n_patches, config.vision.width, config.vision.mlp_width
    saved = 0
    lost = 0
    for r in config.merges_per_layer:
        saved += 4 * lost * width**2 + 2 * (n**2 - (n - lost) ** 2) * width
        lost += r
        saved += 2 * lost * width * mlp
    assert lost > 0
    hidden = config.projector.hidden_width
    saved += lost * hidden * (width + config.language.width)
    assert vision_operations(config_of(kept_ratio=1)) - vision_operations(config) == 2 * saved


def test_weights_of_the_language_graph(bundle):
    manifest = read_manifest(bundle)
    assert language_weight_bytes(manifest) == (bundle / "onnx/language.onnx").stat().st_size
