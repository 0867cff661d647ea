"""What the configuration files of a checkpoint say, held against what its tensors say; a contradiction is refused.

The tensors decide; these files add what no shape can tell: heads of the vision tower, norm epsilons of the language
model, preprocessing. `vision.layer_norm_eps` is the profile's, because the released code ignores its own config.json.
A field that the user set (`fixed`) is not held against anything.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from aurora_export.errors import IncompatibleError, IntegrityError
from aurora_export.model.json_files import read_json

Sizes = Mapping[str, Any]

_LANGUAGE_FIELDS = {
    # num_attention_heads is left out: in released RWKV-6 configs it is wrong (64 where there are 32 heads).
    "hidden_size": "width",
    "attention_hidden_size": "width",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "ffn_width",
    "vocab_size": "vocabulary_size",
    "head_size": "head_size",
    "head_dim": "head_size",
}
_VISION_FIELDS = {
    "hidden_size": "width",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_width",
    "patch_size": "patch_size",
}
_NORMAL_EPS = 1e-5
_BICUBIC = 3
_KNOWN_STEPS = {"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb"}


def language_settings(path: Path, sizes: Sizes, *, fixed: Collection[str] = ()) -> dict[str, Any]:
    """Read config.json of the language model (transformers' RWKV-6, or flash-linear-attention's RWKV-7)."""
    config = read_json(path)
    named = re.match(r"rwkv_?v?(\d)", str(config.get("model_type", "")).lower())
    if named and int(named[1]) != sizes["version"]:
        raise _contradiction(path, "model_type", config["model_type"], f"RWKV-{sizes['version']}")
    _refuse_contradictions(path, config, _LANGUAGE_FIELDS, sizes, fixed)
    if sizes["version"] == 7:
        ranks = {"decay": "decay", "a": "rate", "v": "value", "gate": "gate"}
        ours = {f"{theirs}_low_rank_dim": sizes["low_ranks"][name] for theirs, name in ranks.items()}
        _refuse_contradictions(path, config, {name: name for name in ours}, ours, fixed)
        if config.get("hidden_act", "sqrelu") != "sqrelu":
            raise IncompatibleError(f"{path}: hidden_act is {config['hidden_act']}; RWKV-7 has sqrelu")
        eps = _number(path, config, "norm_eps", _NORMAL_EPS)
        return {"layer_norm_eps": eps, "group_norm_eps": eps * sizes["head_size"]} if "norm_eps" in config else {}
    settings: dict[str, Any] = {}
    if "layer_norm_epsilon" in config:
        settings["layer_norm_eps"] = _number(path, config, "layer_norm_epsilon", _NORMAL_EPS)
    if "head_size_divisor" in config:
        settings["group_norm_eps"] = _NORMAL_EPS * _number(path, config, "head_size_divisor", 8) ** 2
    return settings


def vision_settings(path: Path, sizes: Sizes, *, fixed: Collection[str] = ()) -> dict[str, Any]:
    """Read config.json of the tower: heads, and the image size where patches do not cover it all."""
    config = read_json(path)
    config = config["vision_config"] if isinstance(config.get("vision_config"), dict) else config
    for name in ("image_size", "patch_size"):
        if config.get(name) is not None and name not in fixed:
            config = config | {name: _square_side(path, name, config[name])}
    _refuse_contradictions(path, config, _VISION_FIELDS, sizes, fixed)
    activation = config.get("hidden_act", "gelu_pytorch_tanh")
    if activation != "gelu_pytorch_tanh":
        raise IncompatibleError(f"{path}: hidden_act is {activation}; a SigLIP tower has gelu_pytorch_tanh")
    settings: dict[str, Any] = {}
    image_size = config.get("image_size")
    if image_size is not None and "image_size" not in fixed:
        side = sizes["image_size"] // sizes["patch_size"]
        if not isinstance(image_size, int) or image_size // sizes["patch_size"] != side:
            raise _contradiction(path, "image_size", image_size, f"{side} x {side} patches of {sizes['patch_size']}")
        settings["image_size"] = image_size
    n_heads = config.get("num_attention_heads")
    if n_heads is not None and "n_heads" not in fixed:
        if not isinstance(n_heads, int) or n_heads < 1 or sizes["width"] % n_heads:
            raise _contradiction(path, "num_attention_heads", n_heads, f"a width of {sizes['width']}")
        settings["n_heads"] = n_heads
    return settings


def image_size_setting(path: Path, sizes: Sizes) -> dict[str, int]:
    """The image size in preprocessor_config.json, if as many whole patches fit into it as the tower has.

    For a tower whose config.json does not say it: patches of 14 in 27 rows cover 378 pixels of 384 (SigLIP so400m),
    and r of the released schedule is computed from 384.
    """
    size = read_json(path).get("size")
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        size = size["shortest_edge"]
    elif isinstance(size, dict) and size.get("height") == size.get("width"):
        size = size.get("height")
    if not isinstance(size, int) or size // sizes["patch_size"] != sizes["image_size"] // sizes["patch_size"]:
        return {}
    return {"image_size": size}


def check_projector(path: Path, sizes: Mapping[str, Sizes]) -> None:
    """Hold config.json of the projector (xtuner's ProjectorModel) against its tensors."""
    config = read_json(path)
    if "visual_hidden_size" not in config:
        return  # a whole LLaVA's config.json, whose hidden_act is another one
    ours = {"visual_hidden_size": sizes["vision"]["width"], "llm_hidden_size": sizes["language"]["width"]}
    _refuse_contradictions(path, config, {name: name for name in ours}, ours, ())
    for name, expected in {"depth": 2, "hidden_act": "gelu", "bias": True}.items():
        if config.get(name, expected) != expected:
            raise IncompatibleError(f"{path}: {name} is {config[name]}; the supported projector has {expected}")


def frame_settings(path: Path, image_size: int | None, *, fixed: Collection[str] = ()) -> dict[str, Any]:
    """Read preprocessor_config.json: resize, mean, std. What this project cannot do is refused by name.

    image_size: what the file's size must be; None if the user set it, and nothing is held against that.
    """
    config = read_json(path)
    for step in sorted(name for name, value in config.items() if name.startswith("do_") and value):
        if step not in _KNOWN_STEPS:
            raise _unknown_preprocessing(path, step, config)
    for step in ("do_resize", "do_rescale"):
        if config.get(step, True) is not True:
            raise _unknown_preprocessing(path, step, config)
    if config.get("resample", _BICUBIC) != _BICUBIC:
        raise _unknown_preprocessing(path, "resample", config)
    if abs(_number(path, config, "rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise _unknown_preprocessing(path, "rescale_factor", config)
    settings: dict[str, Any] = {}
    if config.get("do_normalize", True):
        for theirs, ours in {"image_mean": "mean", "image_std": "std"}.items():
            if theirs in config:
                settings[ours] = _three_numbers(path, config, theirs)
    else:
        settings |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if "size" in config and "resize" not in fixed:
        settings["resize"] = _resize(path, config, image_size)
    return settings


def _resize(path: Path, config: dict[str, Any], image_size: int | None) -> str:
    """`squash` for a size of height and width (SigLIP's processor), `crop` for a shortest edge that is then cropped."""
    size, crop = config["size"], config.get("crop_size")
    crops = config.get("do_center_crop", crop is not None)
    is_square = isinstance(size, dict) and set(size) == {"height", "width"} and size["height"] == size["width"]
    if is_square or (isinstance(size, int) and "siglip" in str(config.get("image_processor_type", "")).lower()):
        kind, side = "squash", size["height"] if isinstance(size, dict) else size
    elif crops and (isinstance(size, int) or (isinstance(size, dict) and set(size) == {"shortest_edge"})):
        kind, side = "crop", size if isinstance(size, int) else size["shortest_edge"]
    else:
        raise _unknown_preprocessing(path, "size", config)
    if crops and crop not in (side, {"height": side, "width": side}, None):
        raise _unknown_preprocessing(path, "crop_size", config)
    if image_size is not None and side != image_size:
        raise _contradiction(path, "size", side, f"images of {image_size}")
    return kind


def _square_side(path: Path, name: str, value: Any) -> Any:
    """The side in `384`, `[384, 384]` or `{"height": 384, "width": 384}`; other things are left for the comparison."""
    sides = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(sides, list):
        return value
    if len(sides) == 2 and _is_count(sides[0]) and sides[0] == sides[1]:
        return sides[0]
    raise IncompatibleError(
        f"{path}: {name} is {value}, which is no square",
        hint="the vision graph takes square frames cut into square patches; it has no other shape of image",
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _unknown_preprocessing(path: Path, name: str, config: dict[str, Any]) -> IncompatibleError:
    return IncompatibleError(
        f"{path}: {name} is {config[name]}, which cannot be reproduced here",
        hint="supported: bicubic resize to a square, or of the shortest edge with a centre crop; "
        "--set frames.resize=crop|squash|pad decides it against the file",
    )


def _refuse_contradictions(
    path: Path, config: dict[str, Any], fields: Mapping[str, str], sizes: Sizes, fixed: Collection[str]
) -> None:
    for theirs, ours in fields.items():
        value = config.get(theirs)
        if value is not None and ours not in fixed and value != sizes[ours]:
            raise _contradiction(path, theirs, value, str(sizes[ours]))


def _contradiction(path: Path, name: str, value: Any, tensors_say: str) -> IntegrityError:
    return IntegrityError(
        f"{path}: {name} is {value}, but the tensors say {tensors_say}",
        hint="the file belongs to another checkpoint, or the weights do",
    )


def _number(path: Path, config: dict[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise IntegrityError(f"{path}: {name} is {value!r}, not a positive number")
    return float(value)


def _three_numbers(path: Path, config: dict[str, Any], name: str) -> tuple[float, float, float]:
    value = config[name]
    if not isinstance(value, list) or len(value) != 3 or not all(isinstance(number, int | float) for number in value):
        raise IntegrityError(f"{path}: {name} is {value!r}, not three numbers")
    red, green, blue = map(float, value)
    return red, green, blue
