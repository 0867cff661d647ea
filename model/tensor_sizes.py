"""Infers every size of a model from the shapes of its tensors, whose names are already ours."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.model.rwkv6 import N_MIXES

_HEADS_OF_WIDTH = {1152: 16}
"""Towers whose heads are not 64 wide: SigLIP so400m."""
_USUAL_HEAD_SIZE = 64
_PATCH_EMBEDDING = "vision.embeddings.patch_embedding.weight"
_POSITIONS = "vision.embeddings.position_embedding.weight"
_WHY_SQUARE = "the vision graph takes square frames, with one learned position for each patch of a square grid"


class Shapes:
    """Shapes of all tensors by our names; asking for one that is not there is an error that names it."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], missing: Callable[[list[str]], NoReturn]) -> None:
        """missing: raises the error for tensors that the checkpoint lacks, with all that is known about the rest."""
        self._shapes, self._missing = shapes, missing

    def __contains__(self, key: str) -> bool:
        return key in self._shapes

    def sizes(self, key: str, letters: str) -> tuple[int, ...]:
        """Shape of one tensor, which has as many axes as there are letters; axes of size 1 in front do not count."""
        if key not in self._shapes:
            self._missing([key])
        shape = self._shapes[key]
        n_axes = len(letters.split())
        while len(shape) > n_axes and shape[0] == 1:
            shape = shape[1:]
        if len(shape) != n_axes or 0 in shape:
            raise IntegrityError(f"{key} has shape {list(self._shapes[key])}; expected [{', '.join(letters.split())}]")
        return shape

    def n_axes(self, key: str) -> int:
        """How many axes a tensor has; 0 if it is not there."""
        return len(self._shapes.get(key, ()))

    def n_layers(self, prefix: str) -> int:
        """One more than the highest layer number after a prefix."""
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        return max((int(match[1]) + 1 for match in map(pattern.match, self._shapes) if match), default=0)


def language_sizes(shapes: Shapes) -> dict[str, Any]:
    """Section `language` of the config: RWKV-7 if there is an r_k, else RWKV-6."""
    vocabulary_size, width = shapes.sizes("language.emb.weight", "V E")
    n_layers = shapes.n_layers("language.blocks.")
    first = "language.blocks.0."
    ffn_width, _ = shapes.sizes(f"{first}ffn.key.weight", "ffn E")
    version = 7 if f"{first}att.r_k" in shapes else 6
    if version == 6:
        n_heads, head_size = shapes.sizes(f"{first}att.time_faaaa", "H N")
        n_mixes, mix_rank, _ = shapes.sizes(f"{first}att.time_maa_w2", "5 rank E")
        if n_mixes != N_MIXES:
            raise IncompatibleError(f"{first}att.time_maa_w2 holds {n_mixes} mixes; RWKV-6 has {N_MIXES}")
        low_ranks = {"mix": mix_rank, "decay": shapes.sizes(f"{first}att.time_decay_w1", "E rank")[1]}
    else:
        n_heads, head_size = shapes.sizes(f"{first}att.r_k", "H N")
        rank_of = {"decay": "0.att.w1", "rate": "0.att.a1", "value": "1.att.v1", "gate": "0.att.g1"}
        if n_layers == 1:
            del rank_of["value"]  # the first layer has no value residual
        low_ranks = {name: shapes.sizes(f"language.blocks.{key}", "E rank")[1] for name, key in rank_of.items()}
        low_ranks.setdefault("value", 0)
    if n_heads * head_size != width:
        raise IntegrityError(
            f"{n_heads} heads of {head_size} (from {'r_k' if version == 7 else 'time_faaaa'}) do not make "
            f"the width {width} of language.emb.weight"
        )
    return {
        "version": version,
        "n_layers": n_layers,
        "width": width,
        "head_size": head_size,
        "ffn_width": ffn_width,
        "vocabulary_size": vocabulary_size,
        "low_ranks": low_ranks,
    }


def vision_sizes(shapes: Shapes) -> dict[str, Any]:
    """Section `vision` of the config, without n_heads, which no shape tells."""
    if shapes.n_axes(_PATCH_EMBEDDING) == 2:
        raise IncompatibleError(
            f"{_PATCH_EMBEDDING} is a matrix, as in SigLIP 2 NaFlex, which takes images of any shape",
            hint=f"{_WHY_SQUARE}; give a tower of a fixed resolution",
        )
    width, n_channels, patch_size, patch_height = shapes.sizes(_PATCH_EMBEDDING, "D 3 p p")
    if n_channels != 3 or patch_size != patch_height:
        raise IncompatibleError(
            f"{_PATCH_EMBEDDING} takes patches of {n_channels} x {patch_size} x {patch_height}; "
            "square patches of 3 channels are supported",
            hint=_WHY_SQUARE,
        )
    n_patches, _ = shapes.sizes(_POSITIONS, "P D")
    side = math.isqrt(n_patches)
    if side * side != n_patches:
        class_row = math.isqrt(n_patches - 1) ** 2 == n_patches - 1
        raise IncompatibleError(
            f"{_POSITIONS} has {n_patches} rows, which is no square",
            hint=_WHY_SQUARE
            + (f"; {n_patches - 1} patches and a class token are another tower's, such as CLIP's" if class_row else ""),
        )
    mlp_width, _ = shapes.sizes("vision.encoder.layers.0.mlp.fc1.weight", "mlp D")
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "width": width,
        "n_layers": shapes.n_layers("vision.encoder.layers."),
        "mlp_width": mlp_width,
    }


def usual_vision_heads(width: int) -> int | None:
    """Heads of a SigLIP tower of width D whose config.json is not there; None if there is no custom."""
    if width in _HEADS_OF_WIDTH:
        return _HEADS_OF_WIDTH[width]
    return None if width % _USUAL_HEAD_SIZE else width // _USUAL_HEAD_SIZE


def projector_sizes(shapes: Shapes) -> dict[str, Any]:
    """Section `projector` of the config."""
    return {"hidden_width": shapes.sizes("projector.model.0.weight", "hidden D")[0]}
