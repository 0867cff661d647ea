"""Which tensors a full-size checkpoint has, and the random numbers in them, drawn block by block.

A tensor's numbers depend on the seed and on its name here alone (the parameter names of `model/`), not on the layout
or the type that it is stored in. Scales are like those of trained models: activations stay around 1, decays are spread,
and what a block adds to the residual stream is damped, so that 24 layers do not amplify rounding.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.model.aurora import AuroraModel

BLOCK_NUMBERS = 1 << 22
"""how many numbers are in memory at once"""

_LARGE_TOWER = {"image_size": 384, "patch_size": 16, "width": 1024, "n_layers": 24, "n_heads": 16, "mlp_width": 4096}
_TINY_TOWER = {"image_size": 64, "patch_size": 8, "width": 128, "n_layers": 3, "n_heads": 2, "mlp_width": 160}
_WORLD = {"vocabulary_size": 65536, "head_size": 64}
_TINY = {"vocabulary_size": 352, "head_size": 16, "width": 64, "n_layers": 2, "ffn_width": 96}

SIZES: dict[str, dict[str, Any]] = {
    "rwkv6-1b6": {
        "vision": _LARGE_TOWER,
        "projector": {"hidden_width": 2048},
        "language": {
            **_WORLD,
            "version": 6,
            "n_layers": 24,
            "width": 2048,
            "ffn_width": 7168,
            "low_ranks": {"mix": 32, "decay": 64},
        },
    },
    "rwkv7-1b5": {
        "vision": _LARGE_TOWER,
        "projector": {"hidden_width": 2048},
        "language": {
            **_WORLD,
            "version": 7,
            "n_layers": 24,
            "width": 2048,
            "ffn_width": 8192,
            "low_ranks": {"decay": 96, "rate": 96, "value": 64, "gate": 256},
        },
    },
    "rwkv6-tiny": {
        "vision": _TINY_TOWER,
        "projector": {"hidden_width": 48},
        "language": {**_TINY, "version": 6, "low_ranks": {"mix": 4, "decay": 8}},
    },
    "rwkv7-tiny": {
        "vision": _TINY_TOWER,
        "projector": {"hidden_width": 48},
        "language": {**_TINY, "version": 7, "low_ranks": {"decay": 8, "rate": 6, "value": 4, "gate": 12}},
    },
}
"""Language model -> sizes of the whole model; the tiny ones come with a tiny tower and are for tests."""

N_ROWS_WITHOUT_TOKEN = 7
"""rows of the embedding that no token has: id 0, and those after the last id (65530 to 65535 in World)"""

_DAMPED = 0.3
_N_OUTLIERS = 4
_LOUDEST_OUTLIERS = (20.0, 60.0)


def config_of(language: str) -> AuroraConfig:
    """Sizes of a model by the name of its language model, one of `SIZES`."""
    return config_from_parts({section: dict(values) for section, values in SIZES[language].items()})


def parameter_shapes(config: AuroraConfig) -> dict[str, tuple[int, ...]]:
    """Name here -> shape of every tensor that a checkpoint holds: the model's, and what no exported model uses.

    Unused are the last layer of the tower, its post-layernorm and pooling head, and RWKV-7's v0, v1, v2 of layer 0.
    """
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in AuroraModel(config).state_dict().items()}
    vision, language = config.vision, config.language
    first = "vision.encoder.layers.0."
    for layer in range(vision.layers_used, vision.n_layers):
        for key in [key for key in shapes if key.startswith(first)]:
            shapes[key.replace(first, f"vision.encoder.layers.{layer}.")] = shapes[key]
    shapes |= _pooling_shapes(vision.width, vision.mlp_width)
    if language.version == 7:
        rank, width = language.low_ranks["value"], language.width
        sizes = {"v0": (1, 1, width), "v1": (width, rank), "v2": (rank, width)}
        shapes |= {f"language.blocks.0.att.{name}": shape for name, shape in sizes.items()}
    return shapes


def _pooling_shapes(width: int, mlp_width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "post_layernorm.weight": (width,),
        "post_layernorm.bias": (width,),
        "head.probe": (1, 1, width),
        "head.attention.in_proj_weight": (3 * width, width),
        "head.attention.in_proj_bias": (3 * width,),
        "head.attention.out_proj.weight": (width, width),
        "head.attention.out_proj.bias": (width,),
        "head.layernorm.weight": (width,),
        "head.layernorm.bias": (width,),
        "head.mlp.fc1.weight": (mlp_width, width),
        "head.mlp.fc1.bias": (mlp_width,),
        "head.mlp.fc2.weight": (width, mlp_width),
        "head.mlp.fc2.bias": (width,),
    }
    return {f"vision.{key}": shape for key, shape in shapes.items()}


@dataclass(frozen=True)
class Draw:
    """Where the numbers of a checkpoint come from."""

    seed: int = 0
    outliers: bool = False
    """a few channels of every block's norms are 20 to 60 times as large, the same ones throughout a part"""

    def blocks(self, key: str, shape: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield the numbers of a tensor in order: flat float32 blocks of up to `BLOCK_NUMBERS`.

        A block is overwritten when the next one is asked for.
        """
        low, high, is_uniform = _distribution(key, shape)
        n_left = math.prod(shape)
        generator = _generator(self.seed, key)
        buffer = torch.empty(min(n_left, BLOCK_NUMBERS))
        while n_left:
            block = buffer[:n_left]
            if is_uniform:
                block.uniform_(low, high, generator=generator)
            else:
                block.normal_(low, high, generator=generator)
            if self.outliers and _is_block_norm(key):
                self._plant_outliers(block, key)
            yield block
            n_left -= len(block)

    def whole(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor at once, of the given shape."""
        return torch.cat([block.clone() for block in self.blocks(key, shape)]).reshape(shape)

    def _plant_outliers(self, norm_weight: Tensor, key: str) -> None:
        """Enlarge channels of a norm. norm_weight: (E,) or (D,)."""
        part = key.partition(".")[0]
        channels = torch.randperm(len(norm_weight), generator=_generator(self.seed, f"{part}: outliers"))
        factors = torch.empty(_N_OUTLIERS).uniform_(*_LOUDEST_OUTLIERS, generator=_generator(self.seed, f"{key}: *"))
        norm_weight[channels[:_N_OUTLIERS]] *= factors


def _generator(seed: int, key: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _is_block_norm(key: str) -> bool:
    return re.search(r"\.(?:ln[12]|layer_norm[12])\.weight$", key) is not None


def _distribution(key: str, shape: tuple[int, ...]) -> tuple[float, float, bool]:
    """(mean, standard deviation, False) or (low, high, True) of a tensor's numbers."""
    name = re.sub(r"[._](?:weight|bias)$", "", key).rpartition(".")[2]
    if key.endswith("bias"):
        return 0, 0.1, False
    if re.match(r"ln|.*layer_?norm", name):
        return 1, 0.1, False
    if re.fullmatch(r"time_maa_[xwkvrg]|x_[rwkvag]|k_[ka]", name):
        return 0, 1, True
    if name == "time_decay":
        return -6, 1, True  # a step keeps exp(-exp(...)) of the state: between 0.066 and 0.9975
    if name == "w0":
        return -6, 2, True
    if name in ("time_faaaa", "r_k", "a0", "v0"):
        return 0, 0.5, False
    if name in ("emb", "position_embedding", "probe"):
        return 0, 1, False
    if re.fullmatch(r"time_maa_w[12]|time_decay_w[12]|[wavg][12]", name):
        return 0, shape[-2] ** -0.5, False  # used as x @ w: the inputs are rows
    n_inputs = math.prod(shape[1:])
    if re.search(r"att\.output|ffn\.value|out_proj|mlp\.fc2", key):
        return 0, _DAMPED * n_inputs**-0.5, False
    if key == "language.head.weight":
        return 0, 2 * n_inputs**-0.5, False  # logits spread like trained ones: the likeliest token stands out
    return 0, n_inputs**-0.5, False
