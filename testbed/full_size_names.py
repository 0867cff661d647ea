"""What the files of a checkpoint call its tensors, from the names of `model/`, and which transpose they store."""

from __future__ import annotations

import re
from typing import NamedTuple

from export_checkpoint import hf_language_key

LANGUAGE_NAMES = ("blinkdl", "hf", "fla")
"""BlinkDL's .pth, transformers' Rwkv6ForCausalLM, flash-linear-attention's RWKV7ForCausalLM"""
PROJECTOR_NAMES = {
    "xtuner": {"0": "model.0", "2": "model.2"},
    "llava_hf": {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2"},
    "llava": {"0": "model.mm_projector.0", "2": "model.mm_projector.2"},
}
_FLA_MODULES = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att": "attn", "ffn": "ffn"}
_FLA_LAYERS = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
_FLA_TOP = {
    "emb.weight": "model.embeddings.weight",
    "ln_out.weight": "model.norm.weight",
    "ln_out.bias": "model.norm.bias",
    "head.weight": "lm_head.weight",
}


class FileEntry(NamedTuple):
    """How a tensor stands in a file."""

    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    """the numbers in the file are those of the transpose"""


def language_entry(key: str, shape: tuple[int, ...], names: str) -> FileEntry | None:
    """Entry of a language tensor, its key without `language.`; None if files of these names do not have it."""
    if names == "blinkdl":
        return FileEntry(key, shape)
    if names == "hf":
        return FileEntry(hf_language_key(key), shape)
    return _fla_entry(key, shape)


def _fla_entry(key: str, shape: tuple[int, ...]) -> FileEntry | None:
    if key in _FLA_TOP:
        return FileEntry(_FLA_TOP[key], shape)
    if re.fullmatch(r"blocks\.0\.att\.v[012]", key):
        return None
    _, layer, module, rest = key.split(".", 3)
    prefix = f"model.layers.{layer}.{_FLA_MODULES[module]}."
    if module != "att":
        return FileEntry(prefix + rest, shape)
    if low_rank := re.fullmatch(r"([wavg])([012])", rest):
        letter, number = low_rank.groups()
        lora = f"{prefix}{letter}_lora.lora."
        if number == "0":
            return FileEntry(f"{lora}2.bias", shape[-1:])
        return FileEntry(f"{lora}{0 if number == '1' else 2}.weight", shape[::-1], transposed=True)
    if rest in ("k_k", "k_a"):
        return FileEntry(prefix + rest, shape[-1:])
    name, dot, kind = rest.partition(".")
    return FileEntry(f"{prefix}{_FLA_LAYERS.get(name, name)}{dot}{kind}", shape)


def projector_entry(key: str, shape: tuple[int, ...], names: str) -> FileEntry:
    """Entry of a projector tensor, its key without `projector.`: model.0.weight and the like."""
    _, number, kind = key.split(".")
    return FileEntry(f"{PROJECTOR_NAMES[names][number]}.{kind}", shape)


def vision_entry(key: str, shape: tuple[int, ...], *, prefix: str, alias: bool = False) -> FileEntry:
    """Entry of a tower's tensor, its key without `vision.`.

    prefix: `vision_model.`, or nothing.  alias: the position table under the second name that the released code gives.
    """
    if alias and key == "embeddings.position_embedding.weight":
        return FileEntry("pos_emb", shape)
    return FileEntry(prefix + key, shape)
