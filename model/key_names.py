"""How every accepted checkpoint calls its tensors, as data: one table per part, from their names to ours.

Ours are the parameter names of `AuroraModel` behind `vision.`, `projector.` and `language.`: those of
the BlinkDL RWKV files, of Hugging Face's SigLIP and of xtuner's projector, so that most tables are short.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Part = Literal["language", "vision", "projector"]
PARTS: tuple[Part, ...] = ("language", "vision", "projector")

_PREFIXES: tuple[tuple[str, Part], ...] = (
    ("llm.", "language"),
    ("visual_encoder.", "vision"),
    ("vision_model.", "vision"),
    ("projector.", "projector"),
    ("multi_modal_projector.", "projector"),
    ("mm_projector.", "projector"),
    ("model.mm_projector.", "projector"),
)
"""Prefixes that say which part a tensor of a merged file belongs to: xtuner, SigLIP, LLaVA-HF, LLaVA."""


class Name(NamedTuple):
    """What a tensor of a checkpoint is called here."""

    part: Part
    key: str | None
    """parameter name of AuroraModel, or one shaped like it; None if the tensor is unused, refused or unknown"""
    transposed: bool = False
    """the checkpoint stores the transpose of what the model uses"""
    unused: str | None = None
    """what it is, if no accepted model uses it"""
    refused: str | None = None
    """what it is, if ignoring it would give a wrong model"""


class _Row(NamedTuple):
    pattern: str
    """matches the whole name; %N stands for a layer number"""
    ours: str
    transposed: bool = False


_LANGUAGE = (
    # BlinkDL .pth, RWKV-6 and 7; and transformers' Rwkv6ForCausalLM, which renames some of it.
    _Row(r"(?:rwkv\.)?(?:emb|embeddings)\.weight", r"emb.weight"),
    _Row(r"(?:rwkv\.)?blocks\.%N\.(?:ln0|pre_ln)\.(.+)", r"blocks.\1.ln0.\2"),
    _Row(r"(?:rwkv\.)?blocks\.%N\.(ln[12])\.(.+)", r"blocks.\1.\2.\3"),
    _Row(r"(?:rwkv\.)?blocks\.%N\.(?:att|attention)\.(.+)", r"blocks.\1.att.\2"),
    _Row(r"(?:rwkv\.)?blocks\.%N\.(?:ffn|feed_forward)\.(.+)", r"blocks.\1.ffn.\2"),
    _Row(r"(?:rwkv\.)?ln_out\.(.+)", r"ln_out.\1"),
    _Row(r"(?:rwkv\.)?head\.weight", r"head.weight"),
    # flash-linear-attention's RWKV7ForCausalLM; its low-rank maps are Linear layers, hence transposed.
    _Row(r"model\.embeddings\.weight", r"emb.weight"),
    _Row(r"model\.layers\.%N\.pre_norm\.(.+)", r"blocks.\1.ln0.\2"),
    _Row(r"model\.layers\.%N\.attn_norm\.(.+)", r"blocks.\1.ln1.\2"),
    _Row(r"model\.layers\.%N\.ffn_norm\.(.+)", r"blocks.\1.ln2.\2"),
    _Row(r"model\.layers\.%N\.attn\.r_proj\.weight", r"blocks.\1.att.receptance.weight"),
    _Row(r"model\.layers\.%N\.attn\.k_proj\.weight", r"blocks.\1.att.key.weight"),
    _Row(r"model\.layers\.%N\.attn\.v_proj\.weight", r"blocks.\1.att.value.weight"),
    _Row(r"model\.layers\.%N\.attn\.o_proj\.weight", r"blocks.\1.att.output.weight"),
    _Row(r"model\.layers\.%N\.attn\.g_norm\.(.+)", r"blocks.\1.att.ln_x.\2"),
    _Row(r"model\.layers\.%N\.attn\.([wavg])_lora\.lora\.0\.weight", r"blocks.\1.att.\g<2>1", transposed=True),
    _Row(r"model\.layers\.%N\.attn\.([wavg])_lora\.lora\.2\.weight", r"blocks.\1.att.\g<2>2", transposed=True),
    _Row(r"model\.layers\.%N\.attn\.([wav])_lora\.lora\.2\.bias", r"blocks.\1.att.\g<2>0"),
    _Row(r"model\.layers\.%N\.attn\.(x_[rwkvag]|k_k|k_a|r_k)", r"blocks.\1.att.\2"),
    _Row(r"model\.layers\.%N\.ffn\.(.+)", r"blocks.\1.ffn.\2"),
    _Row(r"model\.norm\.(.+)", r"ln_out.\1"),
    _Row(r"lm_head\.weight", r"head.weight"),
)
_VISION = (
    _Row(r"(?:vision_model\.)?(embeddings\.(?:patch|position)_embedding\..+)", r"\1"),
    # AuroraSigEncoder registers the position table a second time; a save without shared tensors keeps either name.
    _Row(r"(?:vision_model\.)?pos_emb", r"embeddings.position_embedding.weight"),
    _Row(r"(?:vision_model\.)?encoder\.layers\.%N\.(.+)", r"encoder.layers.\1.\2"),
)
_PROJECTOR = (
    _Row(r"(?:model\.)?([02])\.(weight|bias)", r"model.\1.\2"),
    _Row(r"linear_1\.(weight|bias)", r"model.0.\1"),
    _Row(r"linear_2\.(weight|bias)", r"model.2.\1"),
)
_TABLES: dict[Part, tuple[_Row, ...]] = {"language": _LANGUAGE, "vision": _VISION, "projector": _PROJECTOR}

_UNUSED: dict[Part, tuple[tuple[str, str], ...]] = {
    # Matched against our names where there is one, else against theirs.
    "language": ((r"blocks\.0\.att\.v[012]", "value residual of layer 0, which has none"),),
    "vision": (
        (r"text_model\..+|logit_scale|logit_bias", "text half of SigLIP"),
        (r"(?:vision_model\.)?post_layernorm\.(?:weight|bias)", "post-layernorm, after the feature tap"),
        (r"(?:vision_model\.)?head\..+", "pooling head, after the feature tap"),
        (r"(?:vision_model\.)?embeddings\.position_ids", "position ids, which are 0, 1, 2, ..."),
    ),
    "projector": (),
}
_REFUSED: dict[Part, tuple[tuple[str, str], ...]] = {
    "language": (
        (r"blocks\.\d+\.att\.time_state", "a trained initial state, which is not supported"),
        (r"blocks\.\d+\.ffn\.(?:s_emb.*|s[012])", "the DeepEmbed variant of RWKV, which is not supported"),
        (r"blocks\.\d+\.(?:att|ffn)\.time_mix_\w+", "RWKV-5 or older; RWKV-6 and RWKV-7 are supported"),
        (r".+\.lora_[AB]\..+", "an adapter; merge it into the weights first"),
    ),
    "vision": ((r".+\.lora_[AB]\..+", "an adapter; merge it into the weights first"),),
    "projector": (),
}
_LAYER_NUMBER = r"(0|[1-9]\d{0,3})"


def name_tensor(name: str, default_part: Part) -> Name:
    """Translate the name of a tensor.

    default_part: what a name without a prefix belongs to, because of the file that it lies in.
    """
    name = name.removeprefix("module.")
    part = default_part
    for prefix, part_of_prefix in _PREFIXES:
        if name.startswith(prefix):
            name, part = name.removeprefix(prefix), part_of_prefix
            break
    ours, transposed = _translate(name, part)
    for pattern, what in _UNUSED[part]:
        if re.fullmatch(pattern, ours or name):
            return Name(part, None, unused=what)
    for pattern, what in _REFUSED[part]:
        if re.fullmatch(pattern, ours or name):
            return Name(part, None, refused=what)
    return Name(part, ours and f"{part}.{ours}", transposed)


def _translate(name: str, part: Part) -> tuple[str | None, bool]:
    for row in _TABLES[part]:
        match = re.fullmatch(row.pattern.replace("%N", _LAYER_NUMBER), name)
        if match:
            return match.expand(row.ours), row.transposed
    return None, False
