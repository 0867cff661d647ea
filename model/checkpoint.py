"""Reads a checkpoint in any accepted layout into an `AuroraModel`: every tensor is used, or refused by name.

    find files ─► name tensors ─► infer sizes, read settings ─► config ─► check names and shapes   plan_checkpoint
                                                                              ├─► read numbers     load_checkpoint
                                                                              └─► … when needed    open_checkpoint

Nothing in a checkpoint is executed, and a plan reads no weights. Accepted layouts: the released folder (language
model in one file or in shards, `visual_encoder/`, `projector/`), one merged state dict, the parts one by one, the
testbed's folder (`aurora.json` in addition). Whatever the layout, `key_names.py` leads to one set of names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aurora_export.config import PROFILES, AuroraConfig, config_from_parts
from aurora_export.errors import IntegrityError, UsageError
from aurora_export.model.aurora import AuroraModel
from aurora_export.model.checkpoint_folder import CheckpointSource, FoundFiles, find_files, find_vocabulary
from aurora_export.model.config_files import (
    check_projector,
    frame_settings,
    image_size_setting,
    language_settings,
    vision_settings,
)
from aurora_export.model.json_files import read_json
from aurora_export.model.key_names import PARTS
from aurora_export.model.streamed import StreamedModel
from aurora_export.model.tensor_map import (
    MappedTensor,
    TensorMap,
    check_duplicate,
    map_tensors,
    part_of,
    refuse_wrong_shapes,
    types_of,
)
from aurora_export.model.tensor_sizes import Shapes, language_sizes, projector_sizes, usual_vision_heads, vision_sizes
from aurora_export.tokenizer import Tokenizer

__all__ = [
    "CheckpointPlan",
    "CheckpointSource",
    "LoadedCheckpoint",
    "load_checkpoint",
    "open_checkpoint",
    "plan_checkpoint",
]

_DEFAULT_PROFILE = "released"

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings by section: {"merge": {"kept_ratio": 0.3}}."""


@dataclass(frozen=True)
class CheckpointPlan:
    """All that can be said about a checkpoint before its weights are read."""

    config: AuroraConfig
    vocabulary_path: Path
    files: tuple[Path, ...]
    """every file of weights"""
    description: dict[str, str]
    """what was found, for people and for the manifest; file names without folders of this machine"""
    warnings: tuple[str, ...]
    tensor_map: TensorMap


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint, read."""

    config: AuroraConfig
    model: AuroraModel
    """float32, in eval mode, no gradients; read (float32 pickles stay memory-mapped), or a `StreamedModel`"""
    vocabulary_path: Path
    files: tuple[Path, ...]
    description: dict[str, str]
    warnings: tuple[str, ...]


def load_checkpoint(
    source: CheckpointSource, *, profile: str | None = None, overrides: Overrides | None = None
) -> LoadedCheckpoint:
    """Read a checkpoint.

    profile: a name in `config.PROFILES`; None means the checkpoint's own, or `released`.
    overrides: settings that win over all that the checkpoint says.

    Raises UsageError (what was given is not enough or contradicts itself), IntegrityError (damaged, incomplete or
    hostile files), IncompatibleError (whole, but a variant that is not supported); each names file and tensor.
    """
    plan = plan_checkpoint(source, profile=profile, overrides=overrides)
    shapes = _shapes(plan.config)
    weights = {key: _read_finite(plan.tensor_map.tensors[key], shape) for key, shape in shapes.items()}
    _check_duplicates(plan, shapes)
    with torch.device("meta"):
        model = AuroraModel(plan.config)
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(requires_grad=False).eval()
    return LoadedCheckpoint(plan.config, model, plan.vocabulary_path, plan.files, plan.description, plan.warnings)


def open_checkpoint(
    source: CheckpointSource, *, profile: str | None = None, overrides: Overrides | None = None
) -> LoadedCheckpoint:
    """Open a checkpoint of any size: as `load_checkpoint`, but its weights are read when they are needed.

    What is wrong with the numbers of a tensor is raised when that tensor is read, otherwise as `load_checkpoint`.
    """
    plan = plan_checkpoint(source, profile=profile, overrides=overrides)
    shapes = _shapes(plan.config)
    _check_duplicates(plan, shapes)

    def read(key: str) -> Tensor:
        return _read_finite(plan.tensor_map.tensors[key], shapes[key], mapped=False)

    model = StreamedModel(plan.config, read)
    return LoadedCheckpoint(plan.config, model, plan.vocabulary_path, plan.files, plan.description, plan.warnings)


def _shapes(config: AuroraConfig) -> dict[str, torch.Size]:
    """Parameter names and shapes of the model that a config describes, built without weights."""
    with torch.device("meta"):
        return {key: value.shape for key, value in AuroraModel(config).state_dict().items()}


def _read_finite(mapped_tensor: MappedTensor, shape: torch.Size, *, mapped: bool = True) -> Tensor:
    weight = mapped_tensor.read(shape, mapped=mapped)
    # A sum is not finite if any term is not; only then is it worth looking at each.
    if not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all():
        raise IntegrityError(f"{mapped_tensor.stored} holds numbers that are infinite or not a number")
    return weight


def _check_duplicates(plan: CheckpointPlan, shapes: Mapping[str, torch.Size]) -> None:
    for key, other in plan.tensor_map.duplicates:
        if key in shapes:
            first = plan.tensor_map.tensors[key]
            check_duplicate(first.read(shapes[key], mapped=False), first, other, part_of(key))


def plan_checkpoint(
    source: CheckpointSource, *, profile: str | None = None, overrides: Overrides | None = None
) -> CheckpointPlan:
    """Find out from names and shapes alone what a checkpoint is, and that it is whole. Raises as `load_checkpoint`."""
    found = find_files(source)
    tensor_map = map_tensors(found.weights)
    _refuse_missing_parts(found, tensor_map)
    config, warnings = _configure(found, tensor_map, profile, overrides or {})
    _refuse_misfits(tensor_map, config)
    files = tuple(file.path for weights in found.weights for file in weights.files)
    return CheckpointPlan(
        config=config,
        vocabulary_path=_checked_vocabulary(source, config),
        files=files,
        description=_describe(source, found, tensor_map, config),
        warnings=(*tensor_map.warnings, *warnings),
        tensor_map=tensor_map,
    )


def _refuse_missing_parts(found: FoundFiles, tensor_map: TensorMap) -> None:
    absent = [part for part in PARTS if part not in tensor_map.parts()]
    if absent and tensor_map.unknown:
        tensor_map.misfit()  # names what there is: it says more than what there is not
    if absent:
        places = "; ".join(f"{part} in {' or '.join(found.looked_for[part]) or 'nothing else'}" for part in absent)
        raise UsageError(
            f"the checkpoint has no {' and no '.join(absent)} part: looked for {places}",
            hint=f"give it by itself: {' '.join(f'--{part} PATH' for part in absent)}",
        )


def _configure(
    found: FoundFiles, tensor_map: TensorMap, profile: str | None, overrides: Overrides
) -> tuple[AuroraConfig, list[str]]:
    """Join sizes from shapes, the checkpoint's settings and the user's. Returns warnings beside the config."""
    own_profile, own_settings = _own_settings(found)
    fixed = {name: {**own_settings.get(name, {}), **overrides.get(name, {})} for name in AuroraConfig.model_fields}
    shapes = Shapes({key: mapped.shape for key, mapped in tensor_map.tensors.items()}, tensor_map.misfit)
    sizes = {"language": language_sizes(shapes), "vision": vision_sizes(shapes), "projector": projector_sizes(shapes)}
    if path := found.configs.get("language"):
        sizes["language"] |= language_settings(path, sizes["language"], fixed=fixed["language"])
    path = found.configs.get("vision")
    said = vision_settings(path, sizes["vision"], fixed=fixed["vision"]) if path else {}
    if "image_size" not in said and found.preprocessor:
        said |= image_size_setting(found.preprocessor, sizes["vision"])
    sizes["vision"] |= said
    if path := found.configs.get("projector"):
        check_projector(path, sizes)
    if "n_heads" not in sizes["vision"] and "n_heads" not in fixed["vision"]:
        sizes["vision"]["n_heads"] = _guess_vision_heads(sizes["vision"]["width"])
    profile = profile or own_profile or _DEFAULT_PROFILE
    warnings = []
    if found.preprocessor:
        image_size = None if "image_size" in fixed["vision"] else sizes["vision"]["image_size"]
        sizes["frames"] = frame_settings(found.preprocessor, image_size, fixed=fixed["frames"])
    elif "resize" not in fixed["frames"]:
        warnings.append(f"no preprocessor_config.json: frames are prepared as the profile {profile!r} says")
    if "image_size" not in {**said, **fixed["vision"]}:
        tower = sizes["vision"]
        warnings.append(
            f"no file tells the image size: {tower['image_size']}, what the patches of {tower['patch_size']} cover, "
            "is taken; --set vision.image_size=N gives another one"
        )
    both = [{name: dict(values) for name, values in layer.items()} for layer in (own_settings, overrides)]
    return config_from_parts(sizes, profile=profile, overrides=both), warnings


def _guess_vision_heads(width: int) -> int:
    n_heads = usual_vision_heads(width)
    if n_heads is None:
        raise UsageError(
            f"no shape tells how many attention heads a vision tower of width {width} has",
            hint="add its config.json with num_attention_heads, or --set vision.n_heads=N",
        )
    return n_heads


def _own_settings(found: FoundFiles) -> tuple[str | None, Overrides]:
    """Profile and overrides in the checkpoint's aurora.json, if there is one."""
    path = found.own_settings
    if path is None:
        return None, {}
    settings = read_json(path)
    profile = settings.pop("profile", None)
    if profile is not None and profile not in PROFILES:
        raise IntegrityError(f"{path}: unknown profile {profile!r}; profiles: {', '.join(PROFILES)}")
    sections = AuroraConfig.model_fields.keys() - {"profile"}
    for name, values in settings.items():
        if name not in sections or not isinstance(values, dict):
            raise IntegrityError(f"{path}: {name!r} is no section; sections: {', '.join(sorted(sections))}")
    return profile, settings


def _refuse_misfits(tensor_map: TensorMap, config: AuroraConfig) -> None:
    """Compare names and shapes with the model that the config describes, built without weights."""
    expected = _shapes(config)
    missing = [key for key in expected if key not in tensor_map.tensors]
    unknown = list(tensor_map.unknown)
    for key, mapped in tensor_map.tensors.items():
        if key not in expected:
            if _is_after_tap(key, config, expected):
                tensor_map.unused["layers of the tower after the feature tap"] += 1
            else:
                unknown.append(mapped.stored)
    if missing or unknown:
        tensor_map.misfit(missing, unknown)
    refuse_wrong_shapes(tensor_map.tensors, expected)


def _is_after_tap(key: str, config: AuroraConfig, expected: Mapping[str, torch.Size]) -> bool:
    """Whether a tensor belongs to a layer of the vision tower that does not run."""
    prefix = "vision.encoder.layers."
    if not key.startswith(prefix):
        return False
    layer, _, parameter = key.removeprefix(prefix).partition(".")
    return config.vision.layers_used <= int(layer) < config.vision.n_layers and f"{prefix}0.{parameter}" in expected


def _checked_vocabulary(source: CheckpointSource, config: AuroraConfig) -> Path:
    path = find_vocabulary(source)
    n_ids, n_rows = Tokenizer.from_file(path).vocabulary_size, config.language.vocabulary_size
    if n_ids > n_rows:
        raise IntegrityError(
            f"{path} has ids up to {n_ids - 1}, but language.emb.weight has {n_rows} rows",
            hint="the vocabulary belongs to another checkpoint; give the right one with --vocabulary FILE",
        )
    return path


def _describe(
    source: CheckpointSource, found: FoundFiles, tensor_map: TensorMap, config: AuroraConfig
) -> dict[str, str]:
    if source.path is None:
        layout = "parts"
    else:
        layout = "folder" if source.path.is_dir() else "one file"
        layout += ", and parts" if any(source.explicit(part) for part in PARTS) else ""
    description = {"layout": layout}
    for part in PARTS:
        used = {mapped.stored.path: None for key, mapped in tensor_map.tensors.items() if part_of(key) == part}
        files = ", ".join(_public_name(path, source) for path in used)
        description[part] = f"{', '.join(types_of(tensor_map.tensors, part))}, from {files}"
    description["language"] = f"RWKV-{config.language.version}, {description['language']}"
    opened = {file.path: file.size for weights in found.weights for file in weights.files}
    description["files"] = ", ".join(f"{_public_name(path, source)} ({size} bytes)" for path, size in opened.items())
    unused = (f"{n_tensors} of {what}" for what, n_tensors in sorted(tensor_map.unused.items()))
    description["unused"] = "; ".join(unused) or "none"
    return description


def _public_name(path: Path, source: CheckpointSource) -> str:
    """A file's name inside the checkpoint: folders of this machine are nobody's business."""
    if source.path is not None and path.is_relative_to(source.path):
        return path.relative_to(source.path).as_posix() if path != source.path else path.name
    return path.name
