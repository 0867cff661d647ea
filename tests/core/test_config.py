"""The profile: token counts of the published tables, every contradiction refused by name."""

from __future__ import annotations

import pytest

from aurora_export.config import PROFILES, config_from_parts
from aurora_export.errors import EXIT_USAGE, UsageError

SIGLIP_L_384 = {"image_size": 384, "patch_size": 16, "width": 1024, "n_layers": 24, "n_heads": 16, "mlp_width": 4096}
SIGLIP_SO400M_384 = {**SIGLIP_L_384, "patch_size": 14, "width": 1152, "n_layers": 27, "mlp_width": 4304}
RWKV = {
    "version": 6,
    "n_layers": 24,
    "width": 2048,
    "head_size": 64,
    "ffn_width": 7168,
    "vocabulary_size": 65536,
    "low_ranks": {"mix": 32, "decay": 64},
}


def config(tower=SIGLIP_L_384, profile="released", **overrides):
    sizes = {"vision": tower, "projector": {"hidden_width": 2048}, "language": RWKV}
    return config_from_parts(sizes, profile=profile, overrides=[overrides])


@pytest.mark.parametrize(
    ("ratio", "r", "to_language"),
    [
        *((1.0, 0, 575), (0.9, 2, 529), (0.8, 4, 483), (0.7, 7, 414), (0.6, 9, 368), (0.5, 12, 299)),
        *((0.4, 14, 253), (0.3, 16, 207), (0.2, 19, 138), (0.1, 21, 92), (0.05, 22, 69), (0.01, 23, 46)),
    ],
)
def test_token_counts_of_the_released_code(ratio, r, to_language):
    made = config(merge={"kept_ratio": ratio})
    assert made.merges_per_layer == (r,) * 23
    assert made.tokens_per_frame == to_language


def test_so400m_uses_the_unrounded_patch_count():
    made = config(SIGLIP_SO400M_384)
    assert made.vision.n_patches == 729
    assert made.merges_per_layer == (25,) * 26
    assert made.tokens_per_frame == 78


def test_paper_profile_reaches_58_tokens():
    made = config(profile="paper")
    assert made.merges_per_layer == (23,) * 12 + (22,) * 11
    assert made.tokens_per_frame == 58
    assert made.merge.proportional_attention
    assert made.merge.split == "patches_only"


def test_merges_are_capped_at_half_of_what_may_move():
    small = {**SIGLIP_L_384, "image_size": 128, "n_layers": 7}  # 64 patches
    made = config(small, merge={"kept_ratio": 0.01})
    assert made.merges_per_layer == (9, 9, 9, 9, 9, 9)
    made = config({**small, "n_layers": 4, "layers_used": 4}, merge={"kept_ratio": 0.01})
    assert made.merges_per_layer == (15, 15, 15, 9)
    assert made.tokens_per_frame == 9


def test_feature_tap_is_the_last_but_one_layer_unless_said():
    assert config().vision.layers_used == 23
    assert config({**SIGLIP_L_384, "layers_used": 24}).vision.layers_used == 24


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"merge": {"kept_ratio": 0}}, "configuration: merge.kept_ratio: Input should be greater than 0"),
        ({"merge": {"kept_ration": 0.1}}, "configuration: merge.kept_ration: no such setting"),
        (
            {"merge": {"sort": "none"}},
            "configuration: merge: merge.sort=none contradicts merge.order=ascending: set both to none, or neither",
        ),
        (
            {"merge": {"split": "patches_only", "protect_first": False}},
            "configuration: merge: merge.split=patches_only sets token 0 apart, so it needs merge.protect_first=true",
        ),
        ({"vision": {"layers_used": 25}}, "configuration: vision: vision.layers_used 25 is over vision.n_layers 24"),
        ({"vision": {"n_heads": 15}}, "configuration: vision: vision.width 1024 is not divisible by vision.n_heads 15"),
        (
            {"vision": {"image_size": 4096}},
            "configuration: vision: 65536 patches a frame; TensorRT's TopK sorts fewer than 3840",
        ),
        (
            {"language": {"low_ranks": {"mix": 32}}},
            "configuration: language: language.low_ranks of RWKV-6 are ['decay', 'mix'], not ['mix']",
        ),
        (
            {"frames": {"std": (0, 1, 1)}},
            (
                "configuration: frames: frames.mean (0.5, 0.5, 0.5) must lie in 0..1 "
                "and frames.std (0.0, 1.0, 1.0) in (0, 1]"
            ),
        ),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(UsageError) as caught:
        config(**overrides)
    assert caught.value.message == message
    assert caught.value.exit_code == EXIT_USAGE


def test_settings_of_the_wrong_kind():
    with pytest.raises(UsageError, match=r"configuration: vision\.n_layers: Input should be a valid integer"):
        config(vision={"n_layers": "many"})
    with pytest.raises(UsageError, match="configuration: profile is no section"):
        config_from_parts({}, overrides=[{"profile": {"x": 1}}])


def test_unknown_profile():
    with pytest.raises(UsageError, match="unknown profile 'published'") as caught:
        config(profile="published")
    assert caught.value.hint == "profiles: released, paper"


def test_a_ratio_that_leaves_no_token_is_refused():
    tiny = {**SIGLIP_L_384, "image_size": 32, "n_layers": 4, "layers_used": 4}  # 4 patches
    with pytest.raises(UsageError, match="leaves 0 tokens of a frame; at least 1 is needed"):
        config(tiny, merge={"kept_ratio": 0.01, "schedule": "exact", "protect_first": False, "order": "descending"})


def test_overrides_win_in_order_and_profiles_stay_untouched():
    before = repr(PROFILES)
    made = config_from_parts(
        {"vision": SIGLIP_L_384, "projector": {"hidden_width": 8}, "language": RWKV},
        overrides=[{"merge": {"kept_ratio": 0.5}}, {"merge": {"kept_ratio": 0.3}}],
    )
    assert made.merge.kept_ratio == 0.3
    assert repr(PROFILES) == before


def test_config_is_frozen_and_round_trips():
    made = config()
    assert type(made).model_validate_json(made.model_dump_json()) == made
    with pytest.raises(ValueError, match="frozen"):
        made.merge.kept_ratio = 0.2
