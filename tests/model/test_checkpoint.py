"""Every accepted layout leads to the same model; settings are read from the files beside the weights."""

from __future__ import annotations

import json

import pytest
import torch

import tiny
from aurora_export.model.checkpoint import CheckpointSource, load_checkpoint, plan_checkpoint


def assert_same_weights(model, weights):
    state = model.state_dict()
    assert state.keys() == weights.keys()
    different = [key for key, value in state.items() if not torch.equal(value, weights[key])]
    assert not different


def assert_same_outputs(model, other):
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=generator)
    embeddings = torch.randn(1, 5, model.config.language.width, generator=generator)
    outputs = []
    for one in (model, other):
        logits, state = one.language(embeddings, one.language.zero_state())
        outputs.append([*one.encode_frames(frames), logits, *state])
    assert all(torch.equal(theirs, ours) for theirs, ours in zip(*outputs, strict=True))


def released(tmp_path, version=6, **options):
    config = tiny.tiny_config(version)
    weights = tiny.tiny_weights(config)
    return tiny.write_released(tmp_path, config, weights, **options), config, weights


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize(("layout", "version"), tiny.LAYOUTS)
def test_every_layout_is_the_same_model(tmp_path, layout, version, suffix):
    config = tiny.tiny_config(version)
    weights = tiny.tiny_weights(config)

    loaded = load_checkpoint(tiny.write_checkpoint(tmp_path, config, weights, layout=layout, suffix=suffix))

    assert loaded.config == config
    assert_same_weights(loaded.model, weights)
    assert not loaded.model.training
    assert loaded.vocabulary_path.parent == tmp_path
    assert_same_outputs(loaded.model, tiny.tiny_model(version))


def test_weights_of_mixed_types_become_float32(tmp_path):
    source, config, weights = released(tmp_path, language_names="hf", suffix=".bin")
    tensors = tiny.language_tensors(weights, "hf")
    kept_wide = {key: value for key, value in tensors.items() if "time_decay" in key}
    mixed = {key: value.half() for key, value in tensors.items()} | kept_wide
    torch.save(mixed, tmp_path / "pytorch_model.bin")
    tiny.save_tensors(
        tmp_path / "visual_encoder/pytorch_model.bin", tiny.vision_tensors(weights, config), dtype=torch.bfloat16
    )

    loaded = load_checkpoint(source)

    expected = {
        key: value.bfloat16().float()
        if key.startswith("vision.")
        else value.half().float()
        if key.startswith("language.") and "time_decay" not in key
        else value
        for key, value in weights.items()
    }
    assert_same_weights(loaded.model, expected)
    assert loaded.description["language"] == "RWKV-6, float16, float32, from pytorch_model.bin"
    assert loaded.description["vision"] == "bfloat16, from visual_encoder/pytorch_model.bin"


def test_plan_reads_no_weights_and_describes_the_checkpoint(tmp_path):
    source, config, _ = released(tmp_path)

    plan = plan_checkpoint(source)

    assert plan.config == config
    assert plan.warnings == ()
    assert plan.description["layout"] == "folder"
    assert plan.description["unused"] == (
        "16 of layers of the tower after the feature tap; 2 of pooling head, after the feature tap; "
        "1 of post-layernorm, after the feature tap"
    )
    assert [path.relative_to(tmp_path).as_posix() for path in plan.files] == [
        "model.safetensors",
        "visual_encoder/model.safetensors",
        "projector/model.safetensors",
    ]
    assert str(tmp_path) not in str(plan.description)


def test_float32_stays_memory_mapped(tmp_path):
    source, _, _ = released(tmp_path, suffix=".bin")
    weight = load_checkpoint(source).model.language.emb.weight
    # One storage for the whole file, as torch maps it: nothing was copied.
    assert weight.untyped_storage().nbytes() >= weight.numel() * 4
    with open("/proc/self/maps") as maps:
        assert str(tmp_path / "pytorch_model.bin") in maps.read()


def test_legacy_pth_is_read_with_a_warning(tmp_path):
    source, _, weights = released(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    path = tmp_path / "rwkv.pth"
    torch.save(tiny.language_tensors(weights, "blinkdl"), path, _use_new_zipfile_serialization=False)

    loaded = load_checkpoint(source)

    assert_same_weights(loaded.model, weights)
    assert loaded.warnings == (
        f"{path} is a legacy .pth that cannot be memory-mapped: it is read into memory as a whole",
    )


def test_identical_copies_are_accepted_and_rounding_is_no_difference(tmp_path):
    source, config, weights = released(tmp_path, language_names="hf", suffix=".bin")
    copies = tiny.merged_tensors(weights, config, language_names="hf")
    copies = {key: value.half() for key, value in copies.items() if not key.startswith("llm.")}
    torch.save(tiny.language_tensors(weights, "hf") | copies, tmp_path / "pytorch_model.bin")

    assert_same_weights(load_checkpoint(source).model, weights)


def test_explicit_part_wins(tmp_path):
    source, config, _ = released(tmp_path / "folder")
    other = tiny.tiny_weights(config, seed=1)
    path = tiny.save_tensors(tmp_path / "other.safetensors", tiny.projector_tensors(other, "llava"))

    loaded = load_checkpoint(CheckpointSource(source.path, projector=path))

    assert torch.equal(loaded.model.projector.model["0"].weight, other["projector.model.0.weight"])
    path = source.path / "projector/model.safetensors"
    why = "because that part was given by itself"
    assert loaded.warnings == (f"{path}: 4 projector tensors are not used, {why}",)


def test_part_is_taken_from_a_merged_file(tmp_path):
    source, config, weights = released(tmp_path / "folder")
    path = tiny.save_tensors(tmp_path / "all.pth", tiny.merged_tensors(weights, config))
    loaded = load_checkpoint(CheckpointSource(source.path, projector=path))
    assert_same_weights(loaded.model, weights)
    assert f"{path}: {len(tiny.language_tensors(weights, 'blinkdl'))} language tensors are not used, " in str(
        loaded.warnings
    )


def test_first_layer_value_residual_is_ignored_by_name(tmp_path):
    source, _, weights = released(tmp_path, version=7, language_names="blinkdl")
    extra = {f"blocks.0.att.v{number}": torch.ones(1) for number in range(3)}
    tiny.save_tensors(tmp_path / "model.safetensors", tiny.language_tensors(weights, "blinkdl") | extra)

    loaded = load_checkpoint(source)

    assert_same_weights(loaded.model, weights)
    assert "3 of value residual of layer 0, which has none" in loaded.description["unused"]


def test_trainer_files_are_no_weights(tmp_path):
    source, _, weights = released(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"whatever")
    assert_same_weights(load_checkpoint(source).model, weights)


# ----------------------------------------------------------------------------------------------------- settings


def test_own_settings_win_over_the_profile_and_overrides_over_both(tmp_path):
    source, _, _ = released(tmp_path)
    own = {"profile": "paper", "merge": {"kept_ratio": 0.5, "sort": "final"}, "prompt": {"instruction": "Watch."}}
    tiny.write_json(tmp_path / "aurora.json", own)

    config = plan_checkpoint(source, overrides={"merge": {"kept_ratio": 0.25}}).config

    assert (config.profile, config.vision.layer_norm_eps) == ("paper", 1e-6)
    assert (config.merge.kept_ratio, config.merge.sort, config.merge.drop_first) == (0.25, "final", False)
    assert config.prompt.instruction == "Watch."
    assert plan_checkpoint(source, profile="released").config.vision.layer_norm_eps == 1e-5


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        ({"size": {"shortest_edge": 64}, "crop_size": 64}, "crop"),
        ({"size": 64, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}, "crop"),
        ({"size": {"height": 64, "width": 64}}, "squash"),
        ({"size": {"height": 64, "width": 64}, "do_center_crop": False, "resample": 3}, "squash"),
        ({"size": 64, "image_processor_type": "SiglipImageProcessor"}, "squash"),
    ],
)
def test_resize_is_read_from_the_image_processor(tmp_path, processor, expected):
    source, _, _ = released(tmp_path)
    tiny.write_json(tmp_path / "visual_encoder/preprocessor_config.json", processor)
    assert plan_checkpoint(source).config.frames.resize == expected


def test_mean_and_std_are_read_from_the_image_processor(tmp_path):
    source, _, _ = released(tmp_path)
    path = tmp_path / "visual_encoder/preprocessor_config.json"
    edit_json(path, image_mean=[0.25, 0.5, 0.75], image_std=[0.1, 0.2, 0.3])
    frames = plan_checkpoint(source).config.frames
    assert (frames.mean, frames.std) == ((0.25, 0.5, 0.75), (0.1, 0.2, 0.3))
    edit_json(path, do_normalize=False)
    frames = plan_checkpoint(source).config.frames
    assert (frames.mean, frames.std) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(("width", "n_heads"), [(1152, 16), (128, 2)])
def test_usual_heads_when_no_config_says(tmp_path, width, n_heads):
    config = tiny.tiny_config(vision={"width": width, "n_heads": n_heads, "n_layers": 2})
    source = tiny.write_released(tmp_path, config, tiny.tiny_weights(config))
    (tmp_path / "visual_encoder/config.json").unlink()
    assert plan_checkpoint(source).config.vision.n_heads == n_heads


def test_heads_from_a_full_siglip_config_and_from_an_override(tmp_path):
    source, _, _ = released(tmp_path)
    path = tmp_path / "visual_encoder/config.json"
    path.write_text(json.dumps({"model_type": "siglip", "vision_config": json.loads(path.read_text())}))
    assert plan_checkpoint(source).config.vision.n_heads == 2
    assert plan_checkpoint(source, overrides={"vision": {"n_heads": 4}}).config.vision.n_heads == 4


def test_image_size_that_patches_do_not_cover_is_read_from_config(tmp_path):
    source, _, _ = released(tmp_path)
    edit_json(tmp_path / "visual_encoder/config.json", image_size=70)
    edit_json(tmp_path / "visual_encoder/preprocessor_config.json", size={"shortest_edge": 70}, crop_size=70)
    assert plan_checkpoint(source).config.vision.image_size == 70


@pytest.mark.parametrize(
    ("version", "settings", "expected"),
    [
        (6, {"layer_norm_epsilon": 1e-6, "head_size_divisor": 4}, (1e-6, 1e-5 * 16)),
        (7, {"norm_eps": 1e-6, "head_dim": 16, "gate_low_rank_dim": 12}, (1e-6, 1e-6 * 16)),
    ],
)
def test_norm_epsilons_are_read_from_the_language_config(tmp_path, version, settings, expected):
    source, _, _ = released(tmp_path, version=version)
    edit_json(tmp_path / "config.json", **settings)
    language = plan_checkpoint(source).config.language
    assert (language.layer_norm_eps, language.group_norm_eps) == pytest.approx(expected)
