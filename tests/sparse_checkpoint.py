"""Full-size checkpoints that take no disk: safetensors files with the true names and shapes, and holes for numbers.

The shapes are written from the model families' own descriptions, apart from `model/`: RWKV-6 (arXiv 2404.05892),
RWKV-7 (arXiv 2503.14456), SigLIP (arXiv 2303.15343, as Hugging Face stores it), LLaVA-1.5's projector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from tiny import write_json, write_vocabulary

Shapes = dict[str, tuple[int, ...]]

N_ROWS = 65536
"""of the embedding of every World model"""


def rwkv6_shapes(n_layers: int, width: int, *, mix_rank: int, decay_rank: int) -> Shapes:
    """A BlinkDL .pth of RWKV-6, head size 64, ffn 3.5 times the width."""
    row, square, ffn = (1, 1, width), (width, width), int(3.5 * width // 32 * 32)
    block: Shapes = {f"att.time_maa_{letter}": row for letter in "xwkvrg"}
    block |= {"att.time_maa_w1": (width, 5 * mix_rank), "att.time_maa_w2": (5, mix_rank, width)}
    block |= {"att.time_decay_w1": (width, decay_rank), "att.time_decay_w2": (decay_rank, width)}
    block |= {"att.time_decay": row, "att.time_faaaa": (width // 64, 64)}
    block |= {f"att.{name}.weight": square for name in ("receptance", "key", "value", "gate", "output")}
    block |= {"ffn.time_maa_k": row, "ffn.time_maa_r": row, "ffn.receptance.weight": square}
    block |= {"ffn.key.weight": (ffn, width), "ffn.value.weight": (width, ffn)}
    return _language(n_layers, width, block)


def rwkv7_shapes(n_layers: int, width: int, *, ranks: Mapping[str, int]) -> Shapes:
    """A BlinkDL .pth of RWKV-7, head size 64, ffn 4 times the width. ranks: of w, a, v and g.

    As in the released files, layer 0 has the value residual that nothing uses.
    """
    row, square, ffn = (1, 1, width), (width, width), 4 * width
    block: Shapes = {f"att.{name}": row for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "k_k", "k_a")}
    block |= {f"att.{letter}0": row for letter in "wav"}
    block |= {f"att.{letter}1": (width, rank) for letter, rank in ranks.items()}
    block |= {f"att.{letter}2": (rank, width) for letter, rank in ranks.items()}
    block |= {f"att.{name}.weight": square for name in ("receptance", "key", "value", "output")}
    block |= {"att.r_k": (width // 64, 64), "ffn.x_k": row}
    block |= {"ffn.key.weight": (ffn, width), "ffn.value.weight": (width, ffn)}
    return _language(n_layers, width, block)


def _language(n_layers: int, width: int, block: Shapes) -> Shapes:
    block = block | _norms(width, "ln1", "ln2", "att.ln_x")
    shapes: Shapes = {"emb.weight": (N_ROWS, width), "head.weight": (N_ROWS, width)}
    shapes |= _norms(width, "blocks.0.ln0", "ln_out")
    return shapes | {f"blocks.{layer}.{name}": shape for layer in range(n_layers) for name, shape in block.items()}


def siglip_shapes(n_layers: int, width: int, mlp: int, *, patch: int, n_patches: int) -> Shapes:
    """A SiglipVisionModel, with the layer norm and the pooling head after its last layer."""
    shapes: Shapes = {
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.patch_embedding.bias": (width,),
        "embeddings.position_embedding.weight": (n_patches, width),
        "head.probe": (1, 1, width),
        "head.attention.in_proj_weight": (3 * width, width),
        "head.attention.in_proj_bias": (3 * width,),
        **_linear(width, width, "head.attention.out_proj"),
        **_linear(mlp, width, "head.mlp.fc1"),
        **_linear(width, mlp, "head.mlp.fc2"),
        **_norms(width, "post_layernorm", "head.layernorm"),
    }
    for layer in range(n_layers):
        prefix = f"encoder.layers.{layer}."
        shapes |= _norms(width, f"{prefix}layer_norm1", f"{prefix}layer_norm2")
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(width, width, f"{prefix}self_attn.{name}")
        shapes |= _linear(mlp, width, f"{prefix}mlp.fc1") | _linear(width, mlp, f"{prefix}mlp.fc2")
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def projector_shapes(vision: int, hidden: int, language: int) -> Shapes:
    """Xtuner's projector."""
    return _linear(hidden, vision, "model.0") | _linear(language, hidden, "model.2")


def _norms(width: int, *names: str) -> Shapes:
    return {f"{name}.{kind}": (width,) for name in names for kind in ("weight", "bias")}


def _linear(n_out: int, n_in: int, name: str) -> Shapes:
    return {f"{name}.weight": (n_out, n_in), f"{name}.bias": (n_out,)}


def n_parameters(shapes: Shapes) -> int:
    """All elements."""
    return sum(map(math.prod, shapes.values()))


def write_sparse(path: Path, shapes: Shapes) -> Path:
    """Write bfloat16 safetensors of any size; only the header takes disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


def write_folder(folder: Path, *, language: Shapes, vision: Shapes) -> Path:
    """A released folder of these shapes, without any configuration file."""
    width, tower = language["emb.weight"][1], vision["vision_model.embeddings.position_embedding.weight"][1]
    write_sparse(folder / "model.safetensors", language)
    write_sparse(folder / "visual_encoder/model.safetensors", vision)
    write_sparse(folder / "projector/model.safetensors", projector_shapes(tower, width, width))
    write_vocabulary(folder / "rwkv_vocab_v20230424.txt")
    return folder


def write_preprocessor(folder: Path, size: object, **more: object) -> Path:
    """SigLIP's processor."""
    processor = {"image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": size, "resample": 3}
    return write_json(folder / "visual_encoder/preprocessor_config.json", processor | more)
