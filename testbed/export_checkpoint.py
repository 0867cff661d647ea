"""Stage 3: write the trained parts in the layout of the released AuroraLong folder, which `aurora-export build` takes.

config.json, model.safetensors, rwkv_vocab_testbed.txt     the language model, in HF key names
projector/, visual_encoder/                                 the two other parts, each with its config
aurora.json                                                 the profile fields that no released file holds
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from network import INSTRUCTION, KEPT_RATIO, make_config
from vocabulary import FILE_NAME, write_vocabulary

_HF_NAMES = (
    ("emb.", "embeddings."),
    ("blocks.0.ln0.", "blocks.0.pre_ln."),
    (".att.", ".attention."),
    (".ffn.", ".feed_forward."),
)


def hf_language_key(name: str) -> str:
    """Name of a tensor in `Rwkv6ForCausalLM`, from its name in BlinkDL's layout (which is model/language.py's)."""
    if name.startswith("head."):
        return name
    for ours, theirs in _HF_NAMES:
        name = name.replace(ours, theirs)
    return f"rwkv.{name}"


def export_checkpoint(folder: Path, tower: dict[str, Tensor], student: dict[str, Tensor]) -> int:
    """Write the folder; returns the size of all weights in bytes.

    tower: state dict of the VisionTower.  student: state dict of student.Student; its read-outs are dropped.
    """
    parts = {
        "model.safetensors": {
            hf_language_key(key.removeprefix("language.")): value
            for key, value in student.items()
            if key.startswith("language.")
        },
        "projector/model.safetensors": {
            key.removeprefix("projector."): value for key, value in student.items() if key.startswith("projector.")
        },
        "visual_encoder/model.safetensors": {f"vision_model.{key}": value for key, value in tower.items()},
    }
    for name, tensors in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors makes it private
    write_vocabulary(folder / FILE_NAME)
    for name, content in _configs().items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return sum((folder / name).stat().st_size for name in parts)


def _configs() -> dict[str, dict[str, object]]:
    config = make_config()
    vision, language = config.vision, config.language
    return {
        "config.json": {
            "architectures": ["Rwkv6ForCausalLM"],
            "model_type": "rwkv6",
            "vocab_size": language.vocabulary_size,
            "hidden_size": language.width,
            "attention_hidden_size": language.width,
            "head_size": language.head_size,
            "head_size_divisor": 8,
            "num_hidden_layers": language.n_layers,
            "intermediate_size": language.ffn_width,
            "layer_norm_epsilon": language.layer_norm_eps,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "torch_dtype": "float32",
        },
        "projector/config.json": {
            "model_type": "projector",
            "visual_hidden_size": vision.width,
            "llm_hidden_size": language.width,
            "depth": 2,
            "hidden_act": "gelu",
            "bias": True,
        },
        "visual_encoder/config.json": {
            "architectures": ["AuroraSigEncoder"],
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.n_layers,
            "num_attention_heads": vision.n_heads,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
        },
        "visual_encoder/preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "do_center_crop": True,
            "do_rescale": True,
            "do_normalize": True,
            "size": {"shortest_edge": vision.image_size},
            "crop_size": {"height": vision.image_size, "width": vision.image_size},
            "resample": 3,
            "rescale_factor": 1 / 255,
            "image_mean": list(config.frames.mean),
            "image_std": list(config.frames.std),
        },
        "aurora.json": {
            "vision": {"layers_used": vision.layers_used, "layer_norm_eps": vision.layer_norm_eps},
            "merge": {"kept_ratio": KEPT_RATIO},
            "prompt": {"instruction": INSTRUCTION},
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, default=Path("build/testbed_training"), help="folder of vision.pt and language.pt"
    )
    parser.add_argument("--out", type=Path, default=Path("testbed/checkpoint"))
    options = parser.parse_args()
    n_bytes = export_checkpoint(
        options.out,
        torch.load(options.work / "vision.pt", weights_only=True)["tower"],
        torch.load(options.work / "language.pt", weights_only=True)["student"],
    )
    print(f"{options.out}: {n_bytes / 1e6:.2f} MB of weights")
