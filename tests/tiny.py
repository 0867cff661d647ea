"""Tiny random models and their checkpoints in every accepted layout, for tests.

The names in the files are written here from the specification, apart from the tables of `model/key_names.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.checkpoint import CheckpointSource

VOCABULARY_SIZE = 300
"""rows of the embedding; the vocabulary file has ids 1 to 280"""

Weights = dict[str, Tensor]


def tiny_config(version: int = 6, **overrides: Mapping[str, Any]) -> AuroraConfig:
    """Sizes for tests; `overrides` by section: `tiny_config(merge={"kept_ratio": 1.0})`."""
    ranks = {"mix": 4, "decay": 8} if version == 6 else {"decay": 8, "rate": 6, "value": 4, "gate": 12}
    sizes: dict[str, dict[str, Any]] = {
        "vision": {"image_size": 64, "patch_size": 8, "width": 32, "n_layers": 4, "n_heads": 2, "mlp_width": 64},
        "projector": {"hidden_width": 48},
        "language": {
            "version": version,
            "n_layers": 3,
            "width": 64,
            "head_size": 16,
            "ffn_width": 128,
            "vocabulary_size": VOCABULARY_SIZE,
            "low_ranks": ranks,
        },
    }
    for section in sizes:
        sizes[section] |= overrides.get(section, {})
    return config_from_parts(sizes, overrides=[{name: dict(values) for name, values in overrides.items()}])


def tiny_weights(config: AuroraConfig, seed: int = 0) -> Weights:
    """Random weights at scales like those of trained models: decays spread, activations around 1."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in AuroraModel(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    return {key: _draw(key, shape, generator) for key, shape in shapes.items()}


def _draw(key: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    name = key.removesuffix(".weight").rpartition(".")[2]
    normal = torch.randn(shape, generator=generator)
    uniform = torch.rand(shape, generator=generator)
    if key.endswith(".bias"):
        return 0.1 * normal
    if name.startswith(("ln", "layer_norm")):
        return 1 + 0.1 * normal
    if re.fullmatch(r"time_maa_[xwkvrg]|x_[rwkvag]|k_k|k_a", name):
        return uniform
    if re.fullmatch(r"time_decay", name):
        return uniform * 7 - 6  # decays from 0.0025 ** 1 to nearly 1 a step
    if name == "w0":
        return uniform * 8 - 6
    if name in ("time_faaaa", "r_k", "a0", "v0"):
        return 0.5 * normal
    if re.fullmatch(r"time_maa_w[12]|time_decay_w[12]|[wavg][12]", name):
        return normal * shape[-2] ** -0.5 * (2.0 if name.endswith("2") else 1.0)
    if name in ("emb", "position_embedding"):
        return normal
    n_inputs = normal[0].numel()
    return normal * n_inputs**-0.5


def tiny_model(version: int = 6, seed: int = 0, **overrides: Mapping[str, Any]) -> AuroraModel:
    """A tiny model with random weights, in eval mode, without gradients."""
    config = tiny_config(version, **overrides)
    model = AuroraModel(config)
    model.load_state_dict(tiny_weights(config, seed))
    return model.requires_grad_(requires_grad=False).eval()


# ------------------------------------------------------------------------------------------------ names in files


def language_tensors(weights: Weights, names: str) -> Weights:
    """Language weights as `blinkdl` (.pth), `hf` (Rwkv6ForCausalLM) or `fla` (RWKV7ForCausalLM) calls them."""
    own = _part(weights, "language.")
    if names == "blinkdl":
        return own
    if names == "hf":
        return {_hf_name(key): value for key, value in own.items()}
    return dict(_fla_entry(key, value) for key, value in own.items())


def _hf_name(key: str) -> str:
    if key == "head.weight":
        return key
    key = re.sub(r"^emb\.", "embeddings.", key)
    for theirs, ours in {".pre_ln.": ".ln0.", ".attention.": ".att.", ".feed_forward.": ".ffn."}.items():
        key = key.replace(ours, theirs)
    return f"rwkv.{key}"


def _fla_entry(key: str, value: Tensor) -> tuple[str, Tensor]:
    top = {"emb.weight": "model.embeddings.weight", "head.weight": "lm_head.weight"}
    if key in top:
        return top[key], value
    if key.startswith("ln_out."):
        return key.replace("ln_out.", "model.norm."), value
    _, layer, module, rest = key.split(".", 3)
    module = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att": "attn", "ffn": "ffn"}[module]
    prefix = f"model.layers.{layer}.{module}."
    if module != "attn":
        return prefix + rest, value
    low_rank = re.fullmatch(r"([wavg])([012])", rest)
    if low_rank:
        letter, number = low_rank.groups()
        where = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[number]
        return f"{prefix}{letter}_lora.lora.{where}", value.flatten() if number == "0" else value.T
    if rest in ("k_k", "k_a"):
        return prefix + rest, value.flatten()
    renamed = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
    name, _, kind = rest.partition(".")
    return prefix + (f"{renamed[name]}.{kind}" if name in renamed else rest), value


def vision_tensors(weights: Weights, config: AuroraConfig, *, prefix: str = "vision_model.") -> Weights:
    """Tower weights under SigLIP's names, with the layers and heads after the feature tap that nothing uses."""
    own = _part(weights, "vision.")
    tensors = {f"{prefix}{key}": value for key, value in own.items()}
    width = config.vision.width
    for layer in range(config.vision.layers_used, config.vision.n_layers):
        for key, value in own.items():
            if key.startswith("encoder.layers.0."):
                tensors[f"{prefix}{key.replace('layers.0.', f'layers.{layer}.')}"] = torch.zeros_like(value)
    tensors[f"{prefix}post_layernorm.weight"] = torch.ones(width)
    tensors[f"{prefix}head.probe"] = torch.ones(1, 1, width)
    tensors[f"{prefix}head.attention.in_proj_weight"] = torch.ones(3 * width, width)
    return tensors


def projector_tensors(weights: Weights, names: str) -> Weights:
    """Projector weights as `xtuner`, `llava_hf` or `llava` calls them."""
    prefixes = {
        "xtuner": {"0": "model.0", "2": "model.2"},
        "llava_hf": {"0": "multi_modal_projector.linear_1", "2": "multi_modal_projector.linear_2"},
        "llava": {"0": "model.mm_projector.0", "2": "model.mm_projector.2"},
    }[names]
    own = _part(weights, "projector.model.")
    return {prefixes[key[0]] + key[1:]: value for key, value in own.items()}


def merged_tensors(weights: Weights, config: AuroraConfig, *, language_names: str = "blinkdl") -> Weights:
    """All three parts under xtuner's prefixes."""
    return {
        **{f"llm.{key}": value for key, value in language_tensors(weights, language_names).items()},
        **{f"visual_encoder.{key}": value for key, value in vision_tensors(weights, config).items()},
        **{f"projector.{key}": value for key, value in projector_tensors(weights, "xtuner").items()},
    }


def _part(weights: Weights, prefix: str) -> Weights:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


# -------------------------------------------------------------------------------------------------------- files


def save_tensors(path: Path, tensors: Weights, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write safetensors or a pickle, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {key: value.to(dtype).clone().contiguous() for key, value in tensors.items()}
    if path.suffix == ".safetensors":
        save_file(own, path)
    else:
        torch.save(own, path)
    return path


def save_shards(folder: Path, stem: str, suffix: str, tensors: Weights, *, index: bool) -> None:
    """Write two shards under transformers' names, with or without an index."""
    keys = list(tensors)
    halves = [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
    weight_map = {}
    for number, half in enumerate(halves, start=1):
        name = f"{stem}-{number:05d}-of-00002{suffix}"
        save_tensors(folder / name, {key: tensors[key] for key in half})
        weight_map |= dict.fromkeys(half, name)
    if index:
        write_json(folder / f"{stem}{suffix}.index.json", {"metadata": {}, "weight_map": weight_map})


def write_json(path: Path, content: object) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_vocabulary(path: Path) -> Path:
    """A vocabulary in the World format: the 256 bytes and 24 longer tokens, in the order of their length."""
    words = ["\n\n", "ab", "cat", "dog", "red", "The", "User", "blue", "é", "😀", "你", "left ", "frame", "video"]
    words += ["where", "answer", "circle", "colour", "moving", "object", "square", "question", "triangle", "Assistant"]
    tokens = [bytes([byte]) for byte in range(256)] + sorted((word.encode() for word in words), key=len)
    lines = []
    for number, token in enumerate(tokens, start=1):
        try:
            literal = repr(token.decode())
        except UnicodeDecodeError:
            literal = repr(token)
        lines.append(f"{number} {literal} {len(token)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_settings(folder: Path, config: AuroraConfig) -> None:
    """The configuration files of a released folder."""
    language, vision = config.language, config.vision
    write_json(
        folder / "config.json",
        {
            "model_type": f"rwkv{language.version}",
            "hidden_size": language.width,
            "num_hidden_layers": language.n_layers,
            "num_attention_heads": 64,  # wrong, as in released files
            "vocab_size": language.vocabulary_size,
            "intermediate_size": None,
        },
    )
    write_json(
        folder / "visual_encoder/config.json",
        {
            "architectures": ["AuroraSigEncoder"],
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.n_layers,
            "num_attention_heads": vision.n_heads,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        },
    )
    write_json(
        folder / "visual_encoder/preprocessor_config.json",
        {
            "do_resize": True,
            "size": {"shortest_edge": vision.image_size},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": vision.image_size, "width": vision.image_size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(config.frames.mean),
            "image_std": list(config.frames.std),
        },
    )
    write_json(
        folder / "projector/config.json",
        {"visual_hidden_size": vision.width, "llm_hidden_size": language.width, "depth": 2, "hidden_act": "gelu"},
    )


# ------------------------------------------------------------------------------------------------------ layouts


def write_released(
    folder: Path,
    config: AuroraConfig,
    weights: Weights,
    *,
    language_names: str = "hf",
    suffix: str = ".safetensors",
    dtype: torch.dtype = torch.float32,
) -> CheckpointSource:
    """The released folder: language model, visual_encoder/ and projector/, each in one file."""
    write_settings(folder, config)
    write_vocabulary(folder / "rwkv_vocab_v20230424.txt")
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    save_tensors(folder / f"{stem}{suffix}", language_tensors(weights, language_names), dtype=dtype)
    save_tensors(folder / f"visual_encoder/{stem}{suffix}", vision_tensors(weights, config), dtype=dtype)
    save_tensors(folder / f"projector/{stem}{suffix}", projector_tensors(weights, "xtuner"), dtype=dtype)
    return CheckpointSource(folder)


def _released(language_names: str) -> Callable[..., CheckpointSource]:
    def write(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
        return write_released(folder, config, weights, language_names=language_names, suffix=suffix)

    return write


def _sharded(*, index: bool) -> Callable[..., CheckpointSource]:
    def write(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
        source = write_released(folder, config, weights, suffix=suffix)
        stem = "model" if suffix == ".safetensors" else "pytorch_model"
        (folder / f"{stem}{suffix}").unlink()
        save_shards(folder, stem, suffix, language_tensors(weights, "hf"), index=index)
        return source

    return write


def _merged_folder(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
    write_settings(folder, config)
    write_vocabulary(folder / "rwkv_vocab_v20230424.txt")
    save_tensors(folder / f"pytorch_model{suffix}", merged_tensors(weights, config, language_names="hf"))
    return CheckpointSource(folder)


def _merged_file(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
    write_vocabulary(folder / "vocabulary.txt")
    _write_heads(folder, config)
    return CheckpointSource(save_tensors(folder / f"epoch_1{suffix}", merged_tensors(weights, config)))


def _wrapped_file(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
    write_vocabulary(folder / "vocabulary.txt")
    _write_heads(folder, config)
    path = folder / "iter_1.pth"
    torch.save({"state_dict": merged_tensors(weights, config), "epoch": 1}, path)
    return CheckpointSource(path)


def _with_full_siglip(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
    source = write_released(folder, config, weights, language_names="blinkdl", suffix=suffix)
    text = {"text_model.embeddings.token_embedding.weight": torch.ones(4, 4), "logit_scale": torch.ones(1)}
    tensors = {**vision_tensors(weights, config), **text}
    table = tensors.pop("vision_model.embeddings.position_embedding.weight")
    for path in (folder / "visual_encoder").glob(f"*{suffix}"):
        save_tensors(path, {**tensors, "pos_emb": table})
    return source


def _parts(language_names: str, projector_names: str) -> Callable[..., CheckpointSource]:
    def write(folder: Path, config: AuroraConfig, weights: Weights, suffix: str) -> CheckpointSource:
        _write_heads(folder / "siglip", config, name="config.json")
        projector = projector_tensors(weights, projector_names)
        return CheckpointSource(
            language=save_tensors(folder / f"rwkv{suffix}", language_tensors(weights, language_names)),
            vision=save_tensors(folder / f"siglip/model{suffix}", vision_tensors(weights, config, prefix="")).parent,
            projector=save_tensors(folder / f"projector{suffix}", projector),
            vocabulary=write_vocabulary(folder / "words.txt"),
        )

    return write


def _write_heads(folder: Path, config: AuroraConfig, *, name: str = "aurora.json") -> None:
    """Say how many heads the tower has: no shape tells, and 32 is not divisible by the usual 64."""
    heads = config.vision.n_heads
    theirs, ours = {"num_attention_heads": heads}, {"vision": {"n_heads": heads}}
    write_json(folder / name, theirs if name == "config.json" else ours)


_BLINKDL_LAYOUTS: dict[str, Callable[..., CheckpointSource]] = {
    "released, BlinkDL names": _released("blinkdl"),
    "released, HF names": _released("hf"),
    "released, shards and index": _sharded(index=True),
    "released, shards": _sharded(index=False),
    "released, full SigLIP": _with_full_siglip,
    "merged in a folder": _merged_folder,
    "merged file": _merged_file,
    "merged file, wrapped": _wrapped_file,
    "parts, xtuner projector": _parts("blinkdl", "xtuner"),
    "parts, LLaVA-HF projector": _parts("hf", "llava_hf"),
    "parts, LLaVA projector": _parts("blinkdl", "llava"),
}
_FLA_LAYOUTS: dict[str, Callable[..., CheckpointSource]] = {
    "released, FLA names": _released("fla"),
    "parts, FLA names": _parts("fla", "xtuner"),
}
LAYOUTS: list[tuple[str, int]] = [
    *((layout, version) for layout in _BLINKDL_LAYOUTS for version in (6, 7)),
    *((layout, 7) for layout in _FLA_LAYOUTS),
]
"""Every accepted layout, with the RWKV version."""


def write_checkpoint(
    folder: Path, config: AuroraConfig, weights: Weights, *, layout: str, suffix: str = ".safetensors"
) -> CheckpointSource:
    """Write a checkpoint into a folder, in one of `LAYOUTS`. suffix: .safetensors, .bin or .pth."""
    return {**_BLINKDL_LAYOUTS, **_FLA_LAYOUTS}[layout](folder, config, weights, suffix)
