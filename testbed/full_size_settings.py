"""The configuration files beside the weights, as the released folder has them."""

from __future__ import annotations

from aurora_export.config import AuroraConfig


def settings_files(config: AuroraConfig) -> dict[str, dict[str, object]]:
    """File name -> content: config.json of the three parts, and the preprocessor's."""
    vision, language = config.vision, config.language
    side = vision.image_size
    return {
        "config.json": _rwkv6_settings(config) if language.version == 6 else _rwkv7_settings(config),
        "visual_encoder/config.json": {
            "architectures": ["AuroraSigEncoder"],
            "model_type": "siglip_vision_model",
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_width,
            "num_hidden_layers": vision.n_layers,
            "num_attention_heads": vision.n_heads,
            "num_channels": 3,
            "image_size": side,
            "patch_size": vision.patch_size,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,  # the released code does not heed it
        },
        "visual_encoder/preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(config.frames.mean),
            "image_std": list(config.frames.std),
        },
        "projector/config.json": {
            "model_type": "projector",
            "visual_hidden_size": vision.width,
            "llm_hidden_size": language.width,
            "depth": 2,
            "hidden_act": "gelu",
            "bias": True,
        },
    }


def _rwkv6_settings(config: AuroraConfig) -> dict[str, object]:
    language = config.language
    usual_ffn_width = int(3.5 * language.width // 32 * 32)
    return {
        "architectures": ["Rwkv6ForCausalLM"],
        "model_type": "rwkv6",
        "vocab_size": language.vocabulary_size,
        "hidden_size": language.width,
        "attention_hidden_size": language.width,
        "head_size": language.head_size,
        "head_size_divisor": 8,
        "num_attention_heads": 2 * language.n_heads,  # wrong, as in released files
        "num_hidden_layers": language.n_layers,
        "intermediate_size": None if language.ffn_width == usual_ffn_width else language.ffn_width,
        "layer_norm_epsilon": language.layer_norm_eps,
        "rescale_every": 6,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _rwkv7_settings(config: AuroraConfig) -> dict[str, object]:
    language = config.language
    return {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "vocab_size": language.vocabulary_size,
        "hidden_size": language.width,
        "head_dim": language.head_size,
        "num_hidden_layers": language.n_layers,
        "intermediate_size": language.ffn_width,
        "hidden_act": "sqrelu",
        # The norm of the heads has head_dim times this.
        "norm_eps": language.layer_norm_eps,
        "decay_low_rank_dim": language.low_ranks["decay"],
        "a_low_rank_dim": language.low_ranks["rate"],
        "v_low_rank_dim": language.low_ranks["value"],
        "gate_low_rank_dim": language.low_ranks["gate"],
    }
