"""What is wrong with the weights is said in one line, with the file and the tensor; and nothing in them is run."""

from __future__ import annotations

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

import tiny
from aurora_export.errors import EXIT_INCOMPATIBLE, EXIT_INTEGRITY, EXIT_USAGE
from aurora_export.model.checkpoint import CheckpointSource
from bad_checkpoint import assert_refused, language, refusal, rewrite, write_whole

KEY = "blocks.1.att.key.weight"


@pytest.fixture
def folder(tmp_path):
    return write_whole(tmp_path)


# ------------------------------------------------------------------------------------------------ names and shapes


def test_missing_tensors_are_named_and_counted(folder):
    tensors = language(folder)
    for name in ("receptance", "key", "value", "gate"):
        del tensors[f"blocks.1.att.{name}.weight"]
    rewrite(folder, tensors)
    assert_refused(
        folder,
        "the checkpoint lacks 4 tensors: language.blocks.1.att.receptance.weight, "
        "language.blocks.1.att.key.weight, language.blocks.1.att.value.weight and 1 more",
        EXIT_INTEGRITY,
    )


def test_renamed_tensor_is_on_both_lists(folder):
    tensors = language(folder)
    tensors["blocks.1.att.kay.weight"] = tensors.pop(KEY)
    rewrite(folder, tensors)
    assert_refused(
        folder,
        f"the checkpoint lacks 1 tensor: language.{KEY} and has 1 unknown tensor: "
        f"blocks.1.att.kay.weight in {folder}/pytorch_model.bin",
        EXIT_INTEGRITY,
        hint="every tensor is either used or known to be unused; a renamed one shows up on both lists",
    )


def test_missing_tensor_that_sizes_come_from(folder):
    tensors = language(folder)
    tensors["embedding.weight"] = tensors.pop("emb.weight")
    rewrite(folder, tensors)
    assert_refused(
        folder,
        "the checkpoint lacks 1 tensor: language.emb.weight and has 1 unknown tensor: "
        f"embedding.weight in {folder}/pytorch_model.bin",
        EXIT_INTEGRITY,
    )


@pytest.mark.parametrize("name", ["surplus", "blocks.00.ln1.weight", "blocks.2.ln1.weight2", "llm.llm.emb.weight"])
def test_unknown_tensor(folder, name):
    rewrite(folder, language(folder) | {name: torch.ones(1)})
    error = refusal(folder)
    assert f"has 1 unknown tensor: {name} in {folder}/pytorch_model.bin" in error.message
    assert error.exit_code == EXIT_INTEGRITY


def test_unknown_tensor_in_the_tower(folder):
    path = folder / "visual_encoder/pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    tensors["vision_model.encoder.layers.3.mlp.fc3.weight"] = torch.ones(1)  # a layer that is not used, but a new name
    torch.save(tensors, path)
    assert_refused(
        folder,
        f"the checkpoint has 1 unknown tensor: vision_model.encoder.layers.3.mlp.fc3.weight in {path}",
        EXIT_INTEGRITY,
    )


@pytest.mark.parametrize(("shape", "written"), [((64, 63), "[64, 63]"), ((64, 64, 2), "[64, 64, 2]")])
def test_wrong_shape(folder, shape, written):
    rewrite(folder, language(folder) | {KEY: torch.ones(shape)})
    assert_refused(
        folder, f"{KEY} in {folder}/pytorch_model.bin has shape {written}; expected [64, 64]", EXIT_INTEGRITY
    )


def test_wrong_shape_of_a_transposed_tensor_is_told_as_the_file_has_it(tmp_path):
    config = tiny.tiny_config(7)
    weights = tiny.tiny_weights(config)
    tiny.write_released(tmp_path, config, weights, language_names="fla", suffix=".bin")
    name = "model.layers.1.attn.w_lora.lora.0.weight"
    rewrite(tmp_path, tiny.language_tensors(weights, "fla") | {name: torch.ones(64, 8)})
    assert_refused(
        tmp_path, f"{name} in {tmp_path}/pytorch_model.bin has shape [64, 8]; expected [8, 64]", EXIT_INTEGRITY
    )


def test_heads_that_do_not_make_the_width(folder):
    rewrite(folder, language(folder) | {"blocks.0.att.time_faaaa": torch.ones(3, 16)})
    assert_refused(
        folder,
        "3 heads of 16 (from time_faaaa) do not make the width 64 of language.emb.weight",
        EXIT_INTEGRITY,
    )


def test_position_table_that_is_no_square(folder):
    path = folder / "visual_encoder/pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    tensors["vision_model.embeddings.position_embedding.weight"] = torch.ones(65, 32)
    torch.save(tensors, path)
    assert_refused(
        folder, "vision.embeddings.position_embedding.weight has 65 rows, which is no square", EXIT_INCOMPATIBLE
    )


def test_differing_copies_in_one_file(folder):
    tensors = language(folder)
    rewrite(folder, tensors | {f"llm.{KEY}": tensors[KEY] + 1e-6})
    path = folder / "pytorch_model.bin"
    assert_refused(
        folder,
        f"{KEY} in {path} and llm.{KEY} in {path} stand for the same parameter, but differ",
        EXIT_INTEGRITY,
        hint="name the one to use, --language PATH, or move the other one away",
    )


@pytest.mark.parametrize("value", [torch.ones(48, 32), torch.ones(48, 31)])
def test_differing_copies_in_folder_and_merged_file(folder, value):
    rewrite(folder, language(folder) | {"projector.model.0.weight": value.half()})
    assert_refused(
        folder,
        f"model.0.weight in {folder}/projector/pytorch_model.bin and projector.model.0.weight in "
        f"{folder}/pytorch_model.bin stand for the same parameter, but differ",
        EXIT_INTEGRITY,
    )


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("blocks.0.att.time_state", "a trained initial state, which is not supported"),
        ("blocks.2.ffn.s_emb.weight", "the DeepEmbed variant of RWKV, which is not supported"),
        ("blocks.0.ffn.s0", "the DeepEmbed variant of RWKV, which is not supported"),
        ("rwkv.blocks.0.attention.time_mix_key", "RWKV-5 or older; RWKV-6 and RWKV-7 are supported"),
        ("llm.blocks.0.att.key.lora_A.weight", "an adapter; merge it into the weights first"),
    ],
)
def test_unsupported_variants(folder, name, what):
    rewrite(folder, language(folder) | {name: torch.ones(1)})
    assert_refused(folder, f"{name} in {folder}/pytorch_model.bin: {what}", EXIT_INCOMPATIBLE)


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite(folder, number):
    tensors = language(folder)
    tensors[KEY][3, 5] = number
    rewrite(folder, tensors)
    assert_refused(
        folder,
        f"{KEY} in {folder}/pytorch_model.bin holds numbers that are infinite or not a number",
        EXIT_INTEGRITY,
    )


def test_quantised_weights(folder):
    rewrite(folder, language(folder) | {KEY: torch.ones(64, 64, dtype=torch.int8)})
    assert_refused(
        folder,
        f"{KEY} in {folder}/pytorch_model.bin is no floating-point tensor of 16, 32 or 64 bits",
        EXIT_INCOMPATIBLE,
        hint="quantised checkpoints are not read; give the weights that they were made from",
    )


def test_tensor_without_numbers(folder):
    rewrite(folder, language(folder) | {KEY: torch.ones(64, 64, device="meta")})
    assert_refused(
        folder,
        f"{KEY} in {folder}/pytorch_model.bin is sparse, quantised or without numbers; plain tensors are read",
        EXIT_INCOMPATIBLE,
    )


def test_shape_that_the_file_does_not_hold(folder):
    rewrite(folder, language(folder) | {KEY: torch.ones(1).expand(2**20, 2**30)})
    assert_refused(
        folder,
        f"{KEY} in {folder}/pytorch_model.bin claims shape [1048576, 1073741824], which is more than the file holds",
        EXIT_INTEGRITY,
    )


# ------------------------------------------------------------------------------------------------------------ files


class _Attack:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle", "wrapped"])
def test_pickle_that_wants_to_run_code(folder, tmp_path, kind):
    marker, path = tmp_path / "attacked", folder / "pytorch_model.bin"
    attack = {"emb.weight": torch.ones(1), "b": _Attack(marker)}
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(_Attack(marker), protocol=2))
    elif kind == "wrapped":
        torch.save({"state_dict": language(folder), "hooks": _Attack(marker)}, path)
    else:
        torch.save(attack, path, _use_new_zipfile_serialization=kind == "zip")
    assert_refused(
        folder,
        f"{path} wants to run code while it is read (posix.mkdir); nothing was executed",
        EXIT_INTEGRITY,
        hint="use a file that holds tensors only, best of all safetensors",
    )
    assert not marker.exists()
    # The attack is real: the unsafe reader falls for it.
    if kind == "bare pickle":
        pickle.loads(path.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize("suffix", [".bin", ".safetensors", ".pth"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.999])
def test_truncated_file(folder, suffix, part):
    tensors = language(folder)
    (folder / "pytorch_model.bin").unlink()
    path = folder / f"model{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=suffix == ".bin")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    error = refusal(folder)
    assert error.exit_code == EXIT_INTEGRITY
    assert error.message == f"{path} is empty" if part == 0 else error.message.startswith(f"{path} is damaged: ")
    assert error.hint == "fetch or copy the file again and compare its size with the original"


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "is a Git LFS pointer of 63 bytes, not the weights themselves",
            "run `git lfs pull`",
        ),
        (
            b"\n<!DOCTYPE html><html><head>",
            "is a web page, not weights",
            "download the file itself, not the page that shows it",
        ),
        (
            b"ggml weights",
            "is neither safetensors nor a PyTorch file (it starts with 67 67 6d 6c 20 77 65 69)",
            "fetch or copy the file again and compare its size with the original",
        ),
    ],
)
def test_something_else_in_place_of_weights(folder, content, message, hint):
    path = folder / "pytorch_model.bin"
    path.write_bytes(content)
    assert_refused(folder, f"{path} {message}", EXIT_INTEGRITY, hint=hint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "'a' is no tensor, but a int"),
        ({1: torch.ones(1)}, "1 is no tensor, but a Tensor"),
        ([torch.ones(1)], "holds no dict of tensors, but a list"),
        ({}, "holds no dict of tensors, but an empty dict"),
    ],
)
def test_pickle_of_something_else(folder, content, message):
    rewrite(folder, content)
    error = refusal(folder)
    assert error.message.removeprefix(f"{folder}/pytorch_model.bin").lstrip(": ") == message
    assert error.exit_code == EXIT_INTEGRITY


def test_path_that_is_not_there(tmp_path):
    assert_refused(tmp_path / "nothing", f"{tmp_path}/nothing: no such file or folder", EXIT_USAGE)


def test_empty_folder_lists_what_was_looked_for(tmp_path):
    weights = "*.safetensors *.bin *.pth *.pt"
    assert_refused(
        tmp_path,
        "the checkpoint has no language and no vision and no projector part: "
        f"looked for language in {tmp_path}/{weights} (RWKV names, or llm.*); "
        f"vision in {tmp_path}/visual_encoder/{weights} or visual_encoder.* in {tmp_path}/{weights}; "
        f"projector in {tmp_path}/projector/{weights} or projector.* in {tmp_path}/{weights}",
        EXIT_USAGE,
        hint="give it by itself: --language PATH --vision PATH --projector PATH",
    )


def test_parts_without_one_of_them(folder):
    source = CheckpointSource(language=folder / "pytorch_model.bin", vision=folder / "visual_encoder")
    assert_refused(
        source,
        "no checkpoint was given, and no projector part either",
        EXIT_USAGE,
        hint="give a checkpoint folder, or each part: --language, --vision, --projector",
    )
    (folder / "empty").mkdir()
    assert_refused(
        CheckpointSource(folder, projector=folder / "empty"),
        f"{folder}/empty holds no weights",
        EXIT_USAGE,
        hint="looked for *.safetensors, *.bin, *.pth, *.pt",
    )
