"""What is wrong with the files beside the weights: index.json, settings, vocabulary."""

from __future__ import annotations

import pytest

import tiny
from aurora_export.errors import EXIT_INCOMPATIBLE, EXIT_INTEGRITY, EXIT_USAGE
from aurora_export.model.checkpoint import CheckpointSource, load_checkpoint
from bad_checkpoint import assert_refused, edit_json, refusal, write_whole


@pytest.fixture
def folder(tmp_path):
    return write_whole(tmp_path)


# ----------------------------------------------------------------------------------------------------- index.json


@pytest.mark.parametrize("shard", ["../secret.bin", "/etc/passwd", "a\\b.bin", "", "..", "sub/x.bin"])
def test_index_that_leaves_the_folder(folder, shard):
    path = tiny.write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {"emb.weight": shard}})
    assert_refused(folder, f"{path}: {shard!r} is not a plain file name in the same folder", EXIT_INTEGRITY)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"emb.weight": "a.bin"}}, "{folder}/a.bin is missing, but x.index.json lists it"),
        (
            {"weight_map": {"emb.weight": "pytorch_model.bin", "other": "pytorch_model.bin"}},
            "{folder}/x.index.json lists tensors that their files do not hold: other in pytorch_model.bin",
        ),
        ({"weight_map": [1]}, "{folder}/x.index.json has no weight_map from tensor names to file names"),
        ({"weight_map": {"a": 1}}, "{folder}/x.index.json has no weight_map from tensor names to file names"),
    ],
)
def test_index_that_does_not_fit(folder, index, message):
    tiny.write_json(folder / "x.index.json", index)
    assert_refused(folder, message.format(folder=folder), EXIT_INTEGRITY)


# ------------------------------------------------------------------------------------------------ JSON and settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "holds a JSON list, not an object"),
        ("{", "is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    ],
)
def test_broken_json(folder, text, message):
    path = folder / "visual_encoder/config.json"
    path.write_text(text)
    assert_refused(folder, f"{path} {message}", EXIT_INTEGRITY)


def test_hostile_json(folder):
    path = folder / "visual_encoder/config.json"
    path.write_text("[" * 200_000)
    assert refusal(folder).message.startswith(f"{path} is not JSON: ")
    path.write_bytes(b"\xff\xfe")
    assert refusal(folder).message.startswith(f"{path} is not JSON: ")
    with path.open("wb") as file:
        file.truncate(2**26 + 1)
    assert_refused(
        folder, f"{path} has 67108865 bytes; a JSON file of a checkpoint has at most 67108864", EXIT_INTEGRITY
    )


@pytest.mark.parametrize(
    ("file", "name", "value", "tensors_say"),
    [
        ("config.json", "hidden_size", 2048, "64"),
        ("config.json", "num_hidden_layers", 2, "3"),
        ("config.json", "vocab_size", 65536, "300"),
        ("config.json", "head_size", 64, "16"),
        ("visual_encoder/config.json", "num_hidden_layers", 24, "4"),
        ("visual_encoder/config.json", "image_size", 384, "8 x 8 patches of 8"),
        ("visual_encoder/config.json", "num_attention_heads", 5, "a width of 32"),
        ("visual_encoder/preprocessor_config.json", "size", {"shortest_edge": 48}, "images of 64"),
        ("projector/config.json", "llm_hidden_size", 2560, "64"),
    ],
)
def test_settings_that_contradict_the_tensors(folder, file, name, value, tensors_say):
    changes = {name: value, "crop_size": 48} if name == "size" else {name: value}
    edit_json(folder / file, **changes)
    shown = 48 if name == "size" else value
    assert_refused(
        folder,
        f"{folder}/{file}: {name} is {shown}, but the tensors say {tensors_say}",
        EXIT_INTEGRITY,
        hint="the file belongs to another checkpoint, or the weights do",
    )


def test_model_type_of_another_version(folder):
    edit_json(folder / "config.json", model_type="rwkv7")
    assert_refused(folder, f"{folder}/config.json: model_type is rwkv7, but the tensors say RWKV-6", EXIT_INTEGRITY)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"resample": 2}, "resample"),
        ({"do_pad": True}, "do_pad"),
        ({"do_resize": False}, "do_resize"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"do_center_crop": False}, "size"),
        ({"size": {"longest_edge": 64}}, "size"),
        ({"size": {"height": 64, "width": 32}}, "size"),
        ({"crop_size": 32}, "crop_size"),
    ],
)
def test_preprocessing_that_is_not_known(folder, changes, name):
    path = folder / "visual_encoder/preprocessor_config.json"
    edit_json(path, **changes)
    assert_refused(
        folder,
        f"{path}: {name} is {changes.get(name, {'shortest_edge': 64})}, which cannot be reproduced here",
        EXIT_INCOMPATIBLE,
    )


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            "visual_encoder/config.json",
            {"hidden_act": "quick_gelu"},
            "hidden_act is quick_gelu; a SigLIP tower has gelu_pytorch_tanh",
        ),
        ("projector/config.json", {"depth": 3}, "depth is 3; the supported projector has 2"),
        ("projector/config.json", {"hidden_act": "relu"}, "hidden_act is relu; the supported projector has gelu"),
    ],
)
def test_settings_that_are_not_supported(folder, file, changes, message):
    edit_json(folder / file, **changes)
    assert_refused(folder, f"{folder}/{file}: {message}", EXIT_INCOMPATIBLE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"profile": "new"}, "unknown profile 'new'; profiles: released, paper"),
        ({"visoin": {}}, "'visoin' is no section; sections: frames, language, merge, projector, prompt, vision"),
        ({"merge": 3}, "'merge' is no section; sections: frames, language, merge, projector, prompt, vision"),
    ],
)
def test_own_settings_that_make_no_sense(folder, settings, message):
    path = tiny.write_json(folder / "aurora.json", settings)
    assert_refused(folder, f"{path}: {message}", EXIT_INTEGRITY)


def test_unknown_override(folder):
    assert_refused(
        folder, "configuration: merge.ratio: no such setting", EXIT_USAGE, overrides={"merge": {"ratio": 0.1}}
    )


def test_heads_that_nothing_tells(folder):
    (folder / "visual_encoder/config.json").unlink()
    assert_refused(
        folder,
        "no shape tells how many attention heads a vision tower of width 32 has",
        EXIT_USAGE,
        hint="add its config.json with num_attention_heads, or --set vision.n_heads=N",
    )
    assert load_checkpoint(CheckpointSource(folder), overrides={"vision": {"n_heads": 2}}).config.vision.n_heads == 2


# ------------------------------------------------------------------------------------------------------- vocabulary


def test_missing_vocabulary(folder):
    (folder / "rwkv_vocab_v20230424.txt").unlink()
    assert_refused(
        folder,
        f"no vocabulary: looked for rwkv_vocab*.txt and vocabulary.txt in {folder}",
        EXIT_USAGE,
        hint="the World vocabulary comes with every RWKV checkpoint; give it with --vocabulary FILE",
    )
    source = CheckpointSource(folder, vocabulary=folder / "none.txt")
    assert_refused(source, f"{folder}/none.txt: no such file", EXIT_USAGE)


def test_two_vocabularies(folder):
    tiny.write_vocabulary(folder / "rwkv_vocab_new.txt")
    assert_refused(
        folder,
        f"{folder} holds several vocabularies: rwkv_vocab_new.txt, rwkv_vocab_v20230424.txt",
        EXIT_USAGE,
        hint="name the right one: --vocabulary FILE",
    )


def test_vocabulary_of_another_checkpoint(folder):
    path = folder / "rwkv_vocab_v20230424.txt"
    with path.open("a") as file:
        file.write(f"300 {'x' * 60!r} 60\n")
    assert_refused(folder, f"{path} has ids up to 300, but language.emb.weight has 300 rows", EXIT_INTEGRITY)
