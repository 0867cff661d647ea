"""Random checkpoints: every layout is read and holds the same numbers; files are like the libraries' own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import Tensor

import full_size
import full_size_weights
from aurora_export.model.checkpoint import load_checkpoint
from aurora_export.tokenizer import Tokenizer
from full_size import LAYOUTS, write_checkpoint
from full_size_files import TensorToWrite, write_weights
from full_size_vocabulary import N_WORLD_TOKENS, made_tokens, write_vocabulary
from full_size_weights import SIZES, Draw, config_of, parameter_shapes

TINY = ("rwkv6-tiny", "rwkv7-tiny")


def weights_of(folder: Path, layout: str, language: str, dtype: torch.dtype, **options: object) -> dict[str, Tensor]:
    """What the product reads, rounded: some layouts keep some tensors in a wider type."""
    name = next(name for name, value in full_size.DTYPES.items() if value == dtype)
    source = write_checkpoint(folder, layout, language, dtype=name, **options)
    return {key: value.to(dtype) for key, value in load_checkpoint(source).model.state_dict().items()}


def expected_weights(language: str, dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    shapes = parameter_shapes(config_of(language))
    return {key: Draw(seed).whole(key, shape).to(dtype) for key, shape in shapes.items()}


def tensors_in(path: Path) -> dict[str, Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, mmap=True)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize(
    ("layout", "language", "dtype"),
    [
        *((layout, language, torch.float16) for layout in LAYOUTS for language in TINY),
        ("parts", "rwkv6-tiny", torch.bfloat16),
        ("sharded", "rwkv7-tiny", torch.bfloat16),
    ],
)
def test_every_layout_is_read_and_holds_the_same_numbers(tmp_path, layout, language, dtype):
    weights = weights_of(tmp_path, layout, language, dtype)
    expected = expected_weights(language, dtype)
    assert weights.keys() < expected.keys()
    assert [key for key in weights if not torch.equal(weights[key], expected[key])] == []


def test_a_seed_gives_the_same_files_and_another_seed_other_numbers(tmp_path):
    for name, seed in {"first": 1, "again": 1, "other": 2}.items():
        write_checkpoint(tmp_path / name, "released-safetensors", "rwkv6-tiny", dtype="fp16", seed=seed)
    first, again, other = (digests(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert {name for name in first if first[name] != other[name]} == {
        "model.safetensors",
        "projector/model.safetensors",
        "visual_encoder/model.safetensors",
    }


@pytest.mark.parametrize("layout", ["released", "sharded", "merged"])
def test_float16_files_keep_the_decay_in_float32(tmp_path, layout):
    write_checkpoint(tmp_path, layout, "rwkv6-tiny", dtype="fp16")
    dtypes = {
        key: t.dtype
        for path in tmp_path.glob("*model*")
        if path.suffix != ".json"
        for key, t in tensors_in(path).items()
    }
    wide = {key for key, dtype in dtypes.items() if dtype == torch.float32 and "projector" not in key}
    assert {dtypes[key] for key in dtypes.keys() - wide} <= {torch.float16, torch.float32}
    assert {key.rpartition(".")[2] for key in wide} == {"time_decay", "time_decay_w1", "time_decay_w2"}
    assert len(wide) == 3 * config_of("rwkv6-tiny").language.n_layers


def test_blinkdl_files_and_bfloat16_have_one_type(tmp_path):
    write_checkpoint(tmp_path / "a", "parts", "rwkv6-tiny", dtype="fp16")
    write_checkpoint(tmp_path / "b", "released", "rwkv6-tiny", dtype="bf16")
    assert {tensor.dtype for tensor in tensors_in(tmp_path / "a/rwkv.pth").values()} == {torch.float16}
    assert {tensor.dtype for tensor in tensors_in(tmp_path / "b/pytorch_model.bin").values()} == {torch.bfloat16}


def test_a_merged_file_has_mixed_types_and_all_prefixes(tmp_path):
    write_checkpoint(tmp_path, "merged", "rwkv6-tiny", dtype="fp16")
    tensors = tensors_in(tmp_path / "pytorch_model.bin")
    assert {key.partition(".")[0] for key in tensors} == {"llm", "visual_encoder", "projector"}
    assert tensors["projector.model.0.weight"].dtype == torch.float32
    assert tensors["llm.rwkv.blocks.0.attention.key.weight"].dtype == torch.float16
    # What the released tower has and nothing uses.
    assert {
        "visual_encoder.vision_model.encoder.layers.2.mlp.fc1.weight",
        "visual_encoder.vision_model.post_layernorm.bias",
        "visual_encoder.vision_model.head.attention.in_proj_weight",
    } < tensors.keys()


def test_shards_are_several_and_their_index_is_whole(tmp_path):
    write_checkpoint(tmp_path, "sharded", "rwkv6-tiny", dtype="bf16")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    shards = {path.name: set(load_file(path)) for path in tmp_path.glob("model-*.safetensors")}
    assert len(shards) == 3
    assert {key: name for name, keys in shards.items() for key in keys} == index["weight_map"]
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for name in shards for tensor in load_file(tmp_path / name).values()
    )


# ------------------------------------------------------------------------------------------------- streamed files


@pytest.fixture
def odd_tensors(monkeypatch) -> dict[str, Tensor]:
    """Tensors of all types, of which some take several blocks and a last one that is not full."""
    monkeypatch.setattr(full_size_weights, "BLOCK_NUMBERS", 1000)
    shapes = {"many": (37, 111), "one": (1,), "exact": (2, 1000), "cube": (3, 4, 5)}
    dtypes = (torch.float16, torch.float32, torch.bfloat16, torch.float16)
    return {key: Draw().whole(key, shape).to(dtype) for (key, shape), dtype in zip(shapes.items(), dtypes, strict=True)}


def to_write(tensors: dict[str, Tensor]) -> list[TensorToWrite]:
    return [
        TensorToWrite(key, tuple(t.shape), t.dtype, lambda key=key, t=t: Draw().blocks(key, tuple(t.shape)))
        for key, t in tensors.items()
    ]


def assert_same(read: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert read.keys() == expected.keys()
    for key, tensor in expected.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor), key


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_pickle_is_what_torch_would_have_saved(tmp_path, odd_tensors, wrapper, mmap):
    path, by_torch = tmp_path / "ours.bin", tmp_path / "theirs.bin"
    write_weights(path, to_write(odd_tensors), wrapper=wrapper)
    torch.save({wrapper: odd_tensors} if wrapper else odd_tensors, by_torch)
    read = torch.load(path, weights_only=True, mmap=mmap)
    assert_same(read[wrapper] if wrapper else read, odd_tensors)
    with zipfile.ZipFile(path) as ours, zipfile.ZipFile(by_torch) as theirs:
        assert ours.testzip() is None
        sizes = [
            {i.filename.partition("/")[2]: (i.file_size, i.CRC) for i in zip_.infolist()} for zip_ in (ours, theirs)
        ]
    numbers = [{name: value for name, value in records.items() if name.startswith("data/")} for records in sizes]
    assert numbers[0] == numbers[1] != {}


def test_safetensors_are_what_the_library_would_have_saved(tmp_path, odd_tensors):
    write_weights(tmp_path / "ours.safetensors", to_write(odd_tensors))
    assert_same(load_file(tmp_path / "ours.safetensors"), odd_tensors)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_wrong_count_of_numbers_is_refused(tmp_path, odd_tensors, suffix):
    one, *others = to_write(odd_tensors)
    short = dataclasses.replace(one, blocks=lambda: Draw().blocks(one.name, (37, 110)))
    with pytest.raises(RuntimeError, match=r"many: 8140 bytes were drawn, not 8214"):
        write_weights(tmp_path / f"x{suffix}", [short, *others])


def test_what_a_file_cannot_hold_is_refused(tmp_path, odd_tensors):
    one, *others = to_write(odd_tensors)
    with pytest.raises(ValueError, match="one tensor of a name"):
        write_weights(tmp_path / "x.bin", [one, one, *others])
    with pytest.raises(ValueError, match="tensors only"):
        write_weights(tmp_path / "x.safetensors", [one], wrapper="state_dict")


# ------------------------------------------------------------------------------------------------- sizes, numbers


@pytest.mark.parametrize(("language", "n_language"), [("rwkv6-1b6", 1_599_873_024), ("rwkv7-1b5", 1_527_668_736)])
def test_full_sizes_have_the_published_parameter_counts(language, n_language):
    counts = dict.fromkeys(("language", "head", "vision", "projector"), 0)
    for key, shape in parameter_shapes(config_of(language)).items():
        part = "head" if key.startswith("vision.head.") else key.partition(".")[0]
        counts[part] += torch.Size(shape).numel()
    # RWKV-7's count is with v0, v1 and v2 of layer 0, that of the tower without its pooling head.
    assert counts == {"language": n_language, "vision": 303_688_704, "projector": 6_295_552, "head": 12_595_200}


def test_blocks_do_not_repeat_and_have_their_scale(monkeypatch):
    monkeypatch.setattr(full_size_weights, "BLOCK_NUMBERS", 2**18)
    first, second, third = (block.clone() for block in Draw().blocks("language.head.weight", (1536, 512)))
    assert not torch.equal(first, second) and not torch.equal(second, third)
    rows = torch.cat([first, second, third]).reshape(1536, 512)
    assert rows.std().item() == pytest.approx(2 * 512**-0.5, rel=0.01)
    assert len(torch.unique(rows[:, :2], dim=0)) == 1536


@pytest.mark.parametrize("language", TINY)
@pytest.mark.parametrize("outliers", [False, True], ids=["plain", "outliers"])
def test_activations_stay_finite_and_logits_moderate(tmp_path, language, outliers):
    source = write_checkpoint(tmp_path, "merged", language, outliers=outliers)
    model = load_checkpoint(source).model
    frames = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tokens = model.encode_frames(frames).tokens.flatten(0, 1)[None]
    logits, _ = model.language(tokens, model.language.zero_state())[:2]
    assert torch.isfinite(logits).all()
    assert 0.5 < logits.std().item() < 8


def test_outliers_are_the_same_channels_throughout_a_part(tmp_path):
    plain = weights_of(tmp_path / "a", "merged", "rwkv6-tiny", torch.float32)
    planted = weights_of(tmp_path / "b", "merged", "rwkv6-tiny", torch.float32, outliers=True)
    changed = {key: (planted[key] / plain[key]) for key in plain if not torch.equal(plain[key], planted[key])}
    assert {key.removesuffix(".weight").rpartition(".")[2] for key in changed} == {
        "ln1", "ln2", "layer_norm1", "layer_norm2",
    }  # fmt: skip
    for part in ("language", "vision"):
        factors = torch.stack([value for key, value in changed.items() if key.startswith(part)])
        loud = factors > 1.5
        assert loud.sum(1).tolist() == [4] * len(factors)
        assert (loud == loud[0]).all()
        assert factors[loud].min() >= 19.9 and factors[loud].max() <= 60.1


# ---------------------------------------------------------------------------------------------------- vocabulary


def test_the_vocabulary_is_of_the_worlds_size_and_kind(tmp_path):
    tokens = made_tokens()
    assert len(tokens) == len(set(tokens)) == N_WORLD_TOKENS
    assert tokens[:256] == [bytes([value]) for value in range(256)]
    assert tokens[260] == b"\n\n"
    assert [len(token) for token in tokens] == sorted(len(token) for token in tokens)
    assert tokens[-1] == b" " * 128
    write_vocabulary(tmp_path / "vocabulary.txt")
    assert sum(" b'" in line or ' b"' in line for line in (tmp_path / "vocabulary.txt").read_text().split("\n")) == 486
    tokenizer = Tokenizer.from_file(tmp_path / "vocabulary.txt")
    assert tokenizer.vocabulary_size == N_WORLD_TOKENS + 1
    text = "User: Describe the video in detail.\n\nAssistant: bako é 你好 😀"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_vocabulary_that_cannot_be_made_is_refused():
    with pytest.raises(ValueError, match="vocabulary of 9999999 tokens"):
        made_tokens(9_999_999)


# ------------------------------------------------------------------------------------------------------- program


def test_the_program_says_how_to_build(tmp_path):
    result = CliRunner().invoke(full_size.main, [str(tmp_path / "out"), "--layout", "parts", "--language", TINY[0]])
    assert result.exit_code == 0, result.output
    assert f"--language {tmp_path}/out/rwkv.pth --vision {tmp_path}/out/visual_encoder" in result.output


def test_the_program_overwrites_nothing(tmp_path):
    (tmp_path / "kept").write_text("x")
    result = CliRunner().invoke(full_size.main, [str(tmp_path), "--language", TINY[0]])
    assert result.exit_code == 2
    assert "not overwritten" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_help_lists_every_layout_and_size():
    output = CliRunner().invoke(full_size.main, ["--help"]).output
    assert [name for name in SIZES if name not in output] == []
    assert [name for name, layout in LAYOUTS.items() if f"{name:<21} {layout.summary}" not in output] == []
