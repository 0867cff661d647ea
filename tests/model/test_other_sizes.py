"""Other sizes work from shapes alone: full-size files without numbers are planned, small odd models really run."""

from __future__ import annotations

import math

import pytest
import torch
from click.testing import CliRunner

import tiny
from aurora_export.cli import main
from aurora_export.errors import AuroraError
from aurora_export.model.checkpoint import CheckpointSource, load_checkpoint, plan_checkpoint
from sparse_checkpoint import (
    N_ROWS,
    n_parameters,
    rwkv6_shapes,
    rwkv7_shapes,
    siglip_shapes,
    write_folder,
    write_preprocessor,
    write_sparse,
)

RWKV_6 = {
    "1.6B": {"n_layers": 24, "width": 2048, "mix_rank": 32, "decay_rank": 64},
    "3B": {"n_layers": 32, "width": 2560, "mix_rank": 32, "decay_rank": 64},
    "7B": {"n_layers": 32, "width": 4096, "mix_rank": 64, "decay_rank": 128},
}
RWKV_7 = {
    "0.1B": {"n_layers": 12, "width": 768, "ranks": {"w": 64, "a": 64, "v": 32, "g": 128}},
    "0.4B": {"n_layers": 24, "width": 1024, "ranks": {"w": 64, "a": 64, "v": 32, "g": 128}},
    "1.5B": {"n_layers": 24, "width": 2048, "ranks": {"w": 96, "a": 96, "v": 64, "g": 256}},
    "2.9B": {"n_layers": 32, "width": 2560, "ranks": {"w": 96, "a": 96, "v": 64, "g": 320}},
}
TOWERS = {
    "L/16-384": {"n_layers": 24, "width": 1024, "mlp": 4096, "patch": 16, "n_patches": 576},
    "so400m/14-384": {"n_layers": 27, "width": 1152, "mlp": 4304, "patch": 14, "n_patches": 729},
}
SMALL = rwkv7_shapes(**RWKV_7["0.1B"])
RATIOS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01)


def plan(folder, **merge):
    return plan_checkpoint(CheckpointSource(folder), overrides={"merge": merge})


def n_mapped(plan, part):
    return sum(math.prod(mapped.shape) for key, mapped in plan.tensor_map.tensors.items() if key.startswith(part))


@pytest.fixture
def so400m(tmp_path):
    """A folder with the so400m tower and no configuration file."""
    return write_folder(tmp_path, language=SMALL, vision=siglip_shapes(**TOWERS["so400m/14-384"]))


# ------------------------------------------------------------------------------------- full sizes, without numbers


@pytest.mark.parametrize(("name", "n_params"), [("1.6B", 1_599_873_024), ("3B", 3_099_863_040), ("7B", 7_635_746_816)])
def test_rwkv6(tmp_path, name, n_params):
    sizes = RWKV_6[name]
    n_layers, width, mix, decay = sizes["n_layers"], sizes["width"], sizes["mix_rank"], sizes["decay_rank"]
    shapes = rwkv6_shapes(**sizes)
    per_layer = 13 * width**2 + 16 * width + width * (10 * mix + 2 * decay)
    assert n_parameters(shapes) == n_params == 2 * N_ROWS * width + 4 * width + n_layers * per_layer

    found = plan(write_folder(tmp_path, language=shapes, vision=siglip_shapes(**TOWERS["L/16-384"])))

    width = sizes["width"]
    assert found.config.language.model_dump() == {
        "version": 6,
        "n_layers": sizes["n_layers"],
        "width": width,
        "head_size": 64,
        "ffn_width": width * 7 // 2,
        "vocabulary_size": N_ROWS,
        "layer_norm_eps": 1e-5,
        "group_norm_eps": 64e-5,
        "low_ranks": {"mix": sizes["mix_rank"], "decay": sizes["decay_rank"]},
    }
    assert found.config.projector.hidden_width == width
    assert n_mapped(found, "language.") == n_params
    assert found.description["language"] == "RWKV-6, bfloat16, from model.safetensors"


@pytest.mark.parametrize(
    ("name", "n_params"),
    [("0.1B", 191_084_544), ("0.4B", 450_834_432), ("1.5B", 1_527_668_736), ("2.9B", 2_948_065_280)],
)
def test_rwkv7(tmp_path, name, n_params):
    sizes = RWKV_7[name]
    n_layers, width, ranks = sizes["n_layers"], sizes["width"], sizes["ranks"]
    shapes = rwkv7_shapes(**sizes)
    per_layer = 19 * width + 12 * width**2 + 2 * width * sum(ranks.values())
    assert n_parameters(shapes) == n_params == 2 * N_ROWS * width + 4 * width + n_layers * per_layer

    found = plan(write_folder(tmp_path, language=shapes, vision=siglip_shapes(**TOWERS["L/16-384"])))

    assert found.config.language.model_dump() == {
        "version": 7,
        "n_layers": n_layers,
        "width": width,
        "head_size": 64,
        "ffn_width": 4 * width,
        "vocabulary_size": N_ROWS,
        "layer_norm_eps": 1e-5,
        "group_norm_eps": 64e-5,
        "low_ranks": {"decay": ranks["w"], "rate": ranks["a"], "value": ranks["v"], "gate": ranks["g"]},
    }
    assert n_mapped(found, "language.") == n_params - (1 + 2 * ranks["v"]) * width, "all but layer 0's v0, v1, v2"
    assert "3 of value residual of layer 0, which has none" in found.description["unused"]


@pytest.mark.parametrize(
    ("name", "n_params", "n_heads", "head_size"),
    [("L/16-384", 316_283_904, 16, 64), ("so400m/14-384", 428_225_600, 16, 72)],
)
def test_towers(tmp_path, name, n_params, n_heads, head_size):
    sizes = TOWERS[name]
    shapes = siglip_shapes(**sizes)
    assert n_parameters(shapes) == n_params
    folder = write_folder(tmp_path, language=SMALL, vision=shapes)
    write_preprocessor(folder, {"height": 384, "width": 384})
    tiny.write_json(folder / "visual_encoder/config.json", {"image_size": 384, "patch_size": sizes["patch"]})

    vision = plan(folder).config.vision

    assert vision.model_dump() == {
        "image_size": 384,
        "patch_size": sizes["patch"],
        "width": sizes["width"],
        "n_layers": sizes["n_layers"],
        "layers_used": sizes["n_layers"] - 1,
        "n_heads": n_heads,
        "mlp_width": sizes["mlp"],
        "layer_norm_eps": 1e-5,
    }
    assert (vision.n_patches, vision.head_size) == (sizes["n_patches"], head_size)


def test_a_number_that_no_shape_has_is_refused(so400m):
    """The planner compares all shapes, not those alone that sizes come from."""
    shapes = siglip_shapes(**TOWERS["so400m/14-384"])
    shapes["vision_model.encoder.layers.25.mlp.fc2.weight"] = (1152, 4303)
    write_sparse(so400m / "visual_encoder/model.safetensors", shapes)
    with pytest.raises(AuroraError, match=r"layers\.25\.mlp\.fc2\.weight in .* has shape \[1152, 4303\]; expected"):
        plan(so400m)


# ------------------------------------------------------------------------------- images that patches do not cover


def test_so400m_takes_images_of_384_where_a_file_says_so(so400m):
    """SigLIP's convolution is valid: 27 patches of 14 see 378 pixels of 384, and r is computed from 384."""
    tiny.write_json(so400m / "visual_encoder/config.json", {"image_size": 384})
    config = plan(so400m).config
    assert (config.vision.image_size, config.vision.n_patches) == (384, 729)
    assert config.merges_per_layer == (25,) * 26
    assert config.tokens_per_frame == 78


@pytest.mark.parametrize(
    "processor", [{"size": {"height": 384, "width": 384}}, {"size": {"shortest_edge": 384}, "do_center_crop": True}]
)
def test_so400m_takes_images_of_384_where_the_processor_alone_says_so(so400m, processor):
    write_preprocessor(so400m, **processor)
    found = plan(so400m)
    assert (found.config.vision.image_size, found.config.tokens_per_frame) == (384, 78)
    assert found.warnings == ()


def test_so400m_takes_images_of_378_where_no_file_says_more(so400m):
    found = plan(so400m)
    assert (found.config.vision.image_size, found.config.tokens_per_frame) == (378, 104)
    assert found.warnings[1] == (
        "no file tells the image size: 378, what the patches of 14 cover, is taken; "
        "--set vision.image_size=N gives another one"
    )


@pytest.mark.parametrize("size", [{"height": 384, "width": 384}, None])
def test_the_users_image_size_wins(so400m, size):
    if size:
        write_preprocessor(so400m, size)
    found = plan_checkpoint(CheckpointSource(so400m), overrides={"vision": {"image_size": 380}})
    assert (found.config.vision.image_size, found.config.vision.n_patches) == (380, 729)
    assert not any("image size" in warning for warning in found.warnings)


@pytest.mark.parametrize(("size", "side"), [(392, "392"), ({"height": 364, "width": 364}, "364")])
def test_an_image_size_of_other_patches_is_refused(so400m, size, side):
    path = write_preprocessor(so400m, size)
    with pytest.raises(AuroraError) as caught:
        plan(so400m)
    assert caught.value.message == f"{path}: size is {side}, but the tensors say images of 378"


# --------------------------------------------------------------------------------------------------- kept ratios

COUNTS = {
    # Of the released code: after the last layer that runs, less token 0; so400m with r from 384 x 384 / 14 / 14.
    # Its last layer would have to merge 27 of 54 at ratio 0.01: token 0 does not merge, so 26 do.
    "L/16-384": (575, 529, 483, 414, 368, 299, 253, 207, 138, 92, 69, 46),
    "so400m/14-384": (728, 676, 598, 520, 442, 390, 312, 234, 156, 78, 52, 27),
}


@pytest.mark.parametrize("name", TOWERS)
def test_tokens_per_frame_at_every_ratio(tmp_path, name):
    folder = write_folder(tmp_path, language=SMALL, vision=siglip_shapes(**TOWERS[name]))
    tiny.write_json(folder / "visual_encoder/config.json", {"image_size": 384})
    configs = [plan(folder, kept_ratio=ratio).config for ratio in RATIOS]
    assert tuple(config.tokens_per_frame for config in configs) == COUNTS[name]
    floor = 1 / TOWERS[name]["n_layers"]  # the share that the layer after the feature tap would have merged
    assert [bool(config.unreached_ratio) for config in configs] == [ratio < floor for ratio in RATIOS]


def test_a_ratio_that_cannot_be_reached_is_reported_with_the_count_that_is(tmp_path):
    folder = write_folder(tmp_path, language=SMALL, vision=siglip_shapes(**TOWERS["L/16-384"]))
    assert plan(folder, kept_ratio=0.01).config.unreached_ratio == (
        "merge.kept_ratio 0.01 cannot be reached: schedule constant shares the merges among 24 layers, and 23 run; "
        "46 of 576 tokens a frame are kept (0.080)"
    )
    exact = {"schedule": "exact", "drop_first": False}
    assert plan(folder, kept_ratio=0.01, **exact).config.unreached_ratio == (
        "merge.kept_ratio 0.01 cannot be reached: layer 22 should merge 24 of 30 tokens, and a layer merges at most "
        "half; 16 of 576 tokens a frame are kept (0.028)"
    )
    for ratio in RATIOS[:-1]:
        config = plan(folder, kept_ratio=ratio, **exact).config
        assert (config.tokens_per_frame, config.unreached_ratio) == (round(576 * ratio), None)


@pytest.mark.parametrize("schedule", ["constant", "exact"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_the_reference_returns_as_many_tokens_as_the_config_says(ratio, schedule):
    """81 patches in 3 layers that run of 4: at low ratios the last ones are capped."""
    sizes = {"image_size": 74, "patch_size": 8, "width": 36, "n_heads": 4}
    model = tiny.tiny_model(vision=sizes, merge={"kept_ratio": ratio, "schedule": schedule})
    output = encode(model, random_frames(74))
    config = model.config
    assert output.tokens.shape == (2, config.tokens_per_frame, config.language.width)
    assert (output.sizes.sum(dim=1) == 81 - 1).all(), "all patches but token 0, which is dropped"
    asked = 81 * ratio - 1
    if schedule == "exact" and config.unreached_ratio is None:
        assert abs(config.tokens_per_frame - asked) <= 0.5
    if config.unreached_ratio is not None:
        assert config.tokens_per_frame > asked
        assert f"; {config.tokens_per_frame} of 81 tokens a frame are kept" in config.unreached_ratio


# --------------------------------------------------------------------------------------------- small and odd, run

ODD = {
    "RWKV-6, 5 x 5 patches, heads of 18": (
        6,
        {"image_size": 31, "patch_size": 6, "width": 36, "n_heads": 2, "mlp_width": 43},
        {"width": 72, "head_size": 24, "ffn_width": 50, "low_ranks": {"mix": 3, "decay": 5}},
    ),
    "RWKV-7, 3 x 3 patches, heads of 72": (
        7,
        {"image_size": 47, "patch_size": 14, "width": 144, "n_heads": 2, "mlp_width": 101},
        {
            "width": 60,
            "head_size": 12,
            "ffn_width": 77,
            "low_ranks": {"decay": 7, "rate": 5, "value": 3, "gate": 11},
        },
    ),
    "RWKV-7, 27 x 27 patches, one layer of language": (
        7,
        {"image_size": 55, "patch_size": 2, "width": 9, "n_heads": 1, "mlp_width": 5, "n_layers": 5},
        {
            "n_layers": 1,
            "width": 20,
            "head_size": 20,
            "ffn_width": 9,
            "low_ranks": {"decay": 1, "rate": 9, "value": 0, "gate": 2},
        },
    ),
}


def random_frames(side, n_frames=2):
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (n_frames, side, side, 3), dtype=torch.uint8, generator=generator)


def encode(model, frames):
    with torch.inference_mode():
        return model.encode_frames(frames)


@pytest.fixture(params=ODD)
def odd(request, tmp_path):
    """An odd model, written as a released folder; its config."""
    version, vision, language = ODD[request.param]
    config = tiny.tiny_config(version, vision=vision, language=language, projector={"hidden_width": 37})
    names = "blinkdl" if version == 6 else "fla"
    tiny.write_released(tmp_path, config, tiny.tiny_weights(config), language_names=names)
    return CheckpointSource(tmp_path), config


def test_odd_sizes_are_found_and_run(odd):
    source, config = odd
    loaded = load_checkpoint(source)
    assert loaded.config == config
    side, patch = config.vision.image_size, config.vision.patch_size
    assert side % patch, "the patches leave a border over"

    frames = random_frames(side)
    output = encode(loaded.model, frames)

    assert output.tokens.shape == (2, config.tokens_per_frame, config.language.width)
    assert output.token_of_patch.shape == (2, config.vision.n_patches)
    assert output.tokens.isfinite().all()
    assert (output.sizes.sum(dim=1) == config.vision.n_patches - 1).all()
    with torch.inference_mode():
        logits, state = loaded.model.language(output.tokens, loaded.model.language.zero_state(2))
    assert logits.shape == (2, tiny.VOCABULARY_SIZE)
    assert all(tensor.isfinite().all() for tensor in (logits, *state))


def test_pixels_beyond_the_last_whole_patch_are_not_seen(odd):
    source, config = odd
    model = load_checkpoint(source).model
    covered = config.vision.image_size // config.vision.patch_size * config.vision.patch_size
    frames = random_frames(config.vision.image_size)
    changed = frames.clone()
    changed[:, covered:] ^= 0xFF
    changed[:, :, covered:] ^= 0xFF
    assert torch.equal(encode(model, frames).tokens, encode(model, changed).tokens)
    changed[:, covered - 1] ^= 0xFF
    assert not torch.equal(encode(model, frames).tokens, encode(model, changed).tokens)


@pytest.mark.slow
def test_odd_sizes_are_built_and_verified(odd, tmp_path):
    """The graphs take odd sizes too: a build ends by comparing them with the reference."""
    source, config = odd
    out = tmp_path / "odd.aurora"
    result = CliRunner().invoke(main, ["build", str(source.path), "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    n_kept, n_patches = config.tokens_per_frame, config.vision.n_patches
    assert f"tokens per frame: {n_kept} of {n_patches} " in result.stdout
    assert result.stdout.splitlines()[-1] == "PASS"
