"""The frozen configuration of a model: sizes, the merging profile, preprocessing, prompt.

Sizes come from the checkpoint's tensors; everything that the paper leaves open is an explicit field,
set by a named profile, by the checkpoint's own `aurora.json`, or by `--set section.key=value`, in that
order. The effective configuration is written to the bundle's manifest and read from there alone.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aurora_export.errors import UsageError

MAX_PATCHES = 3840
"""TensorRT's limit on k of TopK, which every sort in the vision graph goes through."""


class Section(BaseModel):
    """Base of all sections: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class VisionConfig(Section):
    """The SigLIP tower. `layers_used` of its `n_layers` run; the feature tap is the output of the last one used."""

    image_size: int = Field(gt=0, le=4096)
    patch_size: int = Field(gt=0)
    width: int = Field(gt=0)
    n_layers: int = Field(gt=0, le=1000)
    layers_used: int = Field(gt=0)
    n_heads: int = Field(gt=0)
    mlp_width: int = Field(gt=0)
    layer_norm_eps: float = Field(gt=0)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.width // self.n_heads

    @property
    def n_patches(self) -> int:
        """P: patches of one frame; a remainder of the side is not covered, as in SigLIP's valid convolution."""
        return (self.image_size // self.patch_size) ** 2

    @model_validator(mode="after")
    def _check(self) -> VisionConfig:
        if self.width % self.n_heads:
            raise ValueError(f"vision.width {self.width} is not divisible by vision.n_heads {self.n_heads}")
        if self.layers_used > self.n_layers:
            raise ValueError(f"vision.layers_used {self.layers_used} is over vision.n_layers {self.n_layers}")
        if self.patch_size > self.image_size:
            raise ValueError(f"vision.patch_size {self.patch_size} is over vision.image_size {self.image_size}")
        if self.n_patches >= MAX_PATCHES:
            raise ValueError(f"{self.n_patches} patches a frame; TensorRT's TopK sorts fewer than {MAX_PATCHES}")
        return self


class MergeConfig(Section):
    """S-ToMe (paper section 3.2.2, Algorithm 1): which tokens merge, and in what order they stand."""

    kept_ratio: float = Field(gt=0, le=1, description="nominal share of patches that survive all layers")
    schedule: Literal["constant", "exact"] = Field(
        description="constant: the released code's truncated r in every layer; exact: r spread to hit round(P * ratio)"
    )
    sort: Literal["per_layer", "final", "none"]
    order: Literal["ascending", "descending", "none"]
    protect_first: bool = Field(description="token 0 is never merged and stays at index 0 (the released code's CLS)")
    drop_first: bool = Field(description="token 0 is not passed to the language model")
    split: Literal["with_cls", "patches_only"] = Field(
        description="even/odd partition over all tokens, or over those after token 0"
    )
    proportional_attention: bool = Field(description="add log(token size) to the attention logits along the keys")

    @model_validator(mode="after")
    def _check(self) -> MergeConfig:
        if (self.sort == "none") != (self.order == "none"):
            raise ValueError(
                f"merge.sort={self.sort} contradicts merge.order={self.order}: set both to none, or neither"
            )
        if self.split == "patches_only" and not self.protect_first:
            raise ValueError("merge.split=patches_only sets token 0 apart, so it needs merge.protect_first=true")
        return self


class FramesConfig(Section):
    """From a video frame of any size to uint8 [S, S, 3]; mean and std are applied inside the vision graph."""

    resize: Literal["crop", "squash", "pad"]
    mean: tuple[float, float, float] = Field(description="of pixels scaled to 0..1, per RGB channel")
    std: tuple[float, float, float]

    @property
    def pad_value(self) -> tuple[int, int, int]:
        """Padding colour: the mean colour, truncated as the LLaVA family does."""
        red, green, blue = (int(channel * 255) for channel in self.mean)
        return red, green, blue

    @model_validator(mode="after")
    def _check(self) -> FramesConfig:
        if min(self.std) <= 0 or max(self.std) > 1 or min(self.mean) < 0 or max(self.mean) > 1:
            raise ValueError(f"frames.mean {self.mean} must lie in 0..1 and frames.std {self.std} in (0, 1]")
        return self


class ProjectorConfig(Section):
    """Linear(D -> hidden) · GELU(erf) · Linear(hidden -> E)."""

    hidden_width: int = Field(gt=0)


class LanguageConfig(Section):
    """RWKV-6 (x060) or RWKV-7 (x070). Low ranks are those of the checkpoint's own matrices."""

    version: Literal[6, 7]
    n_layers: int = Field(gt=0, le=1000)
    width: int = Field(gt=0)
    head_size: int = Field(gt=0)
    ffn_width: int = Field(gt=0)
    vocabulary_size: int = Field(gt=0)
    layer_norm_eps: float = Field(default=1e-5, gt=0)
    group_norm_eps: float = Field(default=64e-5, gt=0, description="of the per-head norm: 1e-5 * head_size_divisor^2")
    low_ranks: dict[str, int] = Field(description="RWKV-6: mix, decay; RWKV-7: decay, rate, value, gate")

    @property
    def n_heads(self) -> int:
        """H: the width divided by the head size."""
        return self.width // self.head_size

    @model_validator(mode="after")
    def _check(self) -> LanguageConfig:
        if self.width % self.head_size:
            raise ValueError(f"language.width {self.width} is not divisible by language.head_size {self.head_size}")
        expected = {6: {"mix", "decay"}, 7: {"decay", "rate", "value", "gate"}}[self.version]
        if set(self.low_ranks) != expected:
            raise ValueError(
                f"language.low_ranks of RWKV-{self.version} are {sorted(expected)}, not {sorted(self.low_ranks)}"
            )
        return self


class PromptConfig(Section):
    """How text stands around the frames (the sandwich: AuroraLong section 3.3, VisualRWKV's `middle`)."""

    sandwich: Literal["duplicate", "split", "image_first"]
    frame_separator: Literal["", " ", "\n"]
    bos: bool = Field(description="start the sequence with id 0")
    instruction: str = Field(min_length=1, description="stands before the frames when no question is known yet")
    collapse_newlines: bool = Field(description="CRLF to LF, runs of newlines to one, ends stripped")
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]


class AuroraConfig(Section):
    """Everything that decides what the graphs compute and how they are fed."""

    profile: str
    vision: VisionConfig
    merge: MergeConfig
    frames: FramesConfig
    projector: ProjectorConfig
    language: LanguageConfig
    prompt: PromptConfig

    @property
    def _wanted_merges(self) -> list[int]:
        """What the schedule asks of each layer that runs, before it is known how many tokens that layer has."""
        vision, merge = self.vision, self.merge
        if merge.schedule == "constant":
            # Left to right in float64, the side not rounded to whole patches and L = all layers: as the released code.
            nominal = vision.image_size * vision.image_size / vision.patch_size**2
            return [int(nominal * (1 - merge.kept_ratio) / vision.n_layers)] * vision.layers_used
        n_removed = vision.n_patches - max(1, round(vision.n_patches * merge.kept_ratio))
        base, extra = divmod(n_removed, vision.layers_used)
        return [base + (layer < extra) for layer in range(vision.layers_used)]

    @property
    def merges_per_layer(self) -> tuple[int, ...]:
        """R of each layer that runs: how many tokens it merges away (paper supplement, equation 1)."""
        n_tokens, merges = self.vision.n_patches, []
        for r in self._wanted_merges:
            # Only tokens of set A can disappear, so a layer merges at most half of what may move.
            merges.append(max(0, min(r, (n_tokens - int(self.merge.protect_first)) // 2)))
            n_tokens -= merges[-1]
        return tuple(merges)

    @property
    def tokens_per_frame(self) -> int:
        """K: visual tokens of one frame that reach the language model."""
        return self.vision.n_patches - sum(self.merges_per_layer) - int(self.merge.drop_first)

    @property
    def unreached_ratio(self) -> str | None:
        """Why so few tokens as merge.kept_ratio asks for cannot be had, with the count that is; None if they can.

        Rounding is no reason: the schedule `constant` truncates r in every layer, as the released code does.
        """
        vision, merge = self.vision, self.merge
        merges, why = self.merges_per_layer, None
        capped = [layer for layer, r in enumerate(self._wanted_merges) if r > merges[layer]]
        if capped:
            wanted, n_tokens = self._wanted_merges[capped[0]], vision.n_patches - sum(merges[: capped[0]])
            why = f"layer {capped[0]} should merge {wanted} of {n_tokens} tokens, and a layer merges at most half"
        elif merge.schedule == "constant" and merge.kept_ratio < 1 - vision.layers_used / vision.n_layers:
            why = f"schedule constant shares the merges among {vision.n_layers} layers, and {vision.layers_used} run"
        if why is None:
            return None
        n_kept, n_patches = self.tokens_per_frame, vision.n_patches
        return (
            f"merge.kept_ratio {merge.kept_ratio:g} cannot be reached: {why}; "
            f"{n_kept} of {n_patches} tokens a frame are kept ({n_kept / n_patches:.3f})"
        )

    @model_validator(mode="after")
    def _check(self) -> AuroraConfig:
        if self.tokens_per_frame < 1:
            raise ValueError(
                f"merge.kept_ratio {self.merge.kept_ratio} leaves {self.tokens_per_frame} tokens of a frame; "
                "at least 1 is needed"
            )
        return self


# What the sources leave open, decided per profile. `released`: the released code path (92 tokens a frame at
# 384/16 and ratio 0.1). `paper`: Algorithm 1 as printed (58 tokens). Sizes are not here: they come from tensors.
PROFILES: dict[str, dict[str, dict[str, Any]]] = {
    "released": {
        "vision": {"layer_norm_eps": 1e-5},
        "merge": {
            "kept_ratio": 0.1,
            "schedule": "constant",
            "sort": "per_layer",
            "order": "ascending",
            "protect_first": True,
            "drop_first": True,
            "split": "with_cls",
            "proportional_attention": False,
        },
        "frames": {"resize": "crop", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
        "prompt": {
            "sandwich": "duplicate",
            "frame_separator": "",
            "bos": False,
            "instruction": "Describe the video in detail.",
            "collapse_newlines": True,
            "stop_ids": (0,),
            "stop_texts": (),
        },
    },
}
PROFILES["paper"] = {
    **PROFILES["released"],
    "vision": {"layer_norm_eps": 1e-6},
    "merge": {
        **PROFILES["released"]["merge"],
        "schedule": "exact",
        "drop_first": False,
        "split": "patches_only",
        "proportional_attention": True,
    },
}


def config_from_parts(
    sizes: dict[str, dict[str, Any]],
    *,
    profile: str = "released",
    overrides: list[dict[str, dict[str, Any]]] | None = None,
) -> AuroraConfig:
    """Join the sizes read from a checkpoint, a named profile and overrides (later ones win) into one config.

    Raises UsageError that names the field for an unknown profile, an unknown key or a contradiction.
    """
    if profile not in PROFILES:
        raise UsageError(f"unknown profile {profile!r}", hint=f"profiles: {', '.join(PROFILES)}")
    merged: dict[str, Any] = {"profile": profile}
    for layer in (PROFILES[profile], sizes, *(overrides or [])):
        for section, values in layer.items():
            if section == "profile":
                raise UsageError("configuration: profile is no section", hint="name it by --profile")
            merged[section] = {**merged.get(section, {}), **values}
    vision = merged.get("vision", {})
    if "layers_used" not in vision and isinstance(vision.get("n_layers"), int):
        # The feature tap of the paper and of LLaVA: hidden_states[-2], the last layer does not run.
        vision["layers_used"] = max(1, vision["n_layers"] - 1)
    try:
        return AuroraConfig.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "no such setting"
        raise UsageError(f"configuration: {where + ': ' if where else ''}{message}") from error
