"""Makes random checkpoints of the released model's size, in every layout that the product reads.

    python testbed/full_size.py build/released --layout released --language rwkv6-1b6 --dtype fp16
    python testbed/full_size.py build/goose --layout parts --language rwkv7-1b5 --dtype bf16

The released weights are not needed to find out whether a 2B model is read, exported and verified, and what that takes;
files of their names, shapes, types and sizes are. The numbers are random, so such a model answers nothing. They are
written block by block: the program itself needs a few hundred MB.

    full_size_weights.py   tensors, scales, draws           full_size_names.py        names in files
    full_size_files.py     safetensors and pickles          full_size_vocabulary.py   a vocabulary of World's size
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import torch
from torch import Tensor

from aurora_export.config import AuroraConfig
from aurora_export.model.checkpoint_folder import CheckpointSource
from full_size_files import TensorToWrite, write_weights
from full_size_names import FileEntry, language_entry, projector_entry, vision_entry
from full_size_settings import settings_files
from full_size_vocabulary import FILE_NAME as VOCABULARY
from full_size_vocabulary import write_vocabulary
from full_size_weights import N_ROWS_WITHOUT_TOKEN, SIZES, Draw, config_of, parameter_shapes

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PARTS = ("language", "vision", "projector")
_MERGED_PREFIXES = {"language": "llm.", "vision": "visual_encoder.", "projector": "projector."}
_SUBFOLDERS = {"vision": "visual_encoder", "projector": "projector"}
_KEPT_IN_FLOAT32 = re.compile(r"\.time_decay(?:_w[12])?$")
_N_SHARDS = 3
_TEXT_HALF = {"text_model.embeddings.token_embedding.weight": (32, 16), "logit_scale": (1,), "logit_bias": (1,)}
"""a token of SigLIP's text half, which no accepted model uses"""


@dataclass(frozen=True)
class Layout:
    """Where the parts of a checkpoint lie, and under which names."""

    summary: str
    language_file: str
    """also holds the other parts, if `merged`"""
    transformers_names: bool = True
    """Rwkv6ForCausalLM's or flash-linear-attention's, by the version; else BlinkDL's"""
    merged: bool = False
    wrapper: str | None = None
    sharded: bool = False
    subfolders: str | None = "model.safetensors"
    """file of weights in visual_encoder/ and projector/; None: they have none"""
    projector_names: str = "xtuner"
    full_siglip: bool = False
    """the tower's file is that of a whole SigLIP, and calls the position table `pos_emb`"""
    parts: bool = False
    """the parts lie beside each other and are given one by one; no settings, no vocabulary that is found by itself"""
    float32_parts: frozenset[str] = field(default_factory=frozenset)
    """parts that are float32 in an otherwise narrower checkpoint"""


LAYOUTS = {
    "released": Layout("the released folder: pytorch_model.bin", "pytorch_model.bin", subfolders="pytorch_model.bin"),
    "released-safetensors": Layout("the same in safetensors", "model.safetensors"),
    "released-siglip": Layout("the same, visual_encoder/ from a whole SigLIP", "model.safetensors", full_siglip=True),
    "released-twice": Layout(
        "pytorch_model.bin holds all parts, the two folders hold theirs again in float32",
        "pytorch_model.bin",
        merged=True,
        float32_parts=frozenset({"vision", "projector"}),
    ),
    "sharded": Layout("the released folder, language model in shards with an index", "model.safetensors", sharded=True),
    "sharded-bin": Layout("the same, shards of pickles", "pytorch_model.bin", sharded=True),
    "merged": Layout(
        "a folder with one pytorch_model.bin of mixed types: llm., visual_encoder., projector.",
        "pytorch_model.bin",
        merged=True,
        subfolders=None,
        float32_parts=frozenset({"projector"}),
    ),
    "merged-file": Layout(
        "one .pth as training leaves it: all parts under state_dict, BlinkDL names",
        "epoch_1.pth",
        transformers_names=False,
        merged=True,
        wrapper="state_dict",
        subfolders=None,
    ),
    "parts": Layout("BlinkDL .pth, SigLIP, projector, given one by one", "rwkv.pth", False, parts=True),
    "parts-transformers": Layout(
        "HF or FLA safetensors, SigLIP, LLaVA-HF projector, given one by one",
        "rwkv.safetensors",
        parts=True,
        projector_names="llava_hf",
    ),
    "parts-llava": Layout(
        "BlinkDL .pth, SigLIP, LLaVA projector, one by one", "rwkv.pth", False, parts=True, projector_names="llava"
    ),
}


@dataclass(frozen=True)
class CheckpointWriter:
    """Writes one checkpoint."""

    folder: Path
    layout: Layout
    config: AuroraConfig
    dtype: torch.dtype
    draw: Draw

    def write(self) -> CheckpointSource:
        """Write all files. Returns where a build finds them."""
        sources = self._write_parts() if self.layout.parts else self._write_main()
        n_tokens = self.config.language.vocabulary_size - N_ROWS_WITHOUT_TOKEN
        write_vocabulary(self.folder / VOCABULARY, n_tokens)
        for name, content in settings_files(self.config).items():
            subfolder = name.rpartition("/")[0]
            # A lone file of weights has no settings beside it; of the parts only the tower's are in its own folder.
            if self.layout.wrapper is None and (not self.layout.parts or subfolder == "visual_encoder"):
                (self.folder / name).parent.mkdir(exist_ok=True)
                (self.folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        return sources

    def _write_main(self) -> CheckpointSource:
        layout, path = self.layout, self.folder / self.layout.language_file
        merged = [tensor for part in PARTS for tensor in self._tensors(part, merged=True)]
        language = merged if layout.merged else list(self._tensors("language"))
        if layout.sharded:
            self._write_shards(path, language)
        else:
            write_weights(path, language, wrapper=layout.wrapper)
        if layout.subfolders is not None:
            for part, subfolder in _SUBFOLDERS.items():
                write_weights(self.folder / subfolder / layout.subfolders, list(self._tensors(part)))
        return CheckpointSource(path if layout.wrapper else self.folder)

    def _write_parts(self) -> CheckpointSource:
        paths = {
            "language": self.folder / self.layout.language_file,
            "vision": self.folder / "visual_encoder" / "model.safetensors",
            "projector": self.folder / "projector.safetensors",
        }
        for part, path in paths.items():
            write_weights(path, list(self._tensors(part)))
        return CheckpointSource(
            language=paths["language"],
            vision=paths["vision"].parent,
            projector=paths["projector"],
            vocabulary=self.folder / VOCABULARY,
        )

    def _write_shards(self, path: Path, tensors: list[TensorToWrite]) -> None:
        """Write shards of about the same size, in the order of the tensors, and the index that transformers writes."""
        total = sum(tensor.n_bytes for tensor in tensors)
        shards: list[list[TensorToWrite]] = [[] for _ in range(_N_SHARDS)]
        position = 0
        for tensor in tensors:
            shards[position * _N_SHARDS // total].append(tensor)
            position += tensor.n_bytes
        shards = [shard for shard in shards if shard]
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            name = f"{path.stem}-{number:05}-of-{len(shards):05}{path.suffix}"
            write_weights(path.with_name(name), shard)
            weight_map |= {tensor.name: name for tensor in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        path.with_name(f"{path.name}.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _tensors(self, part: str, *, merged: bool = False) -> Iterator[TensorToWrite]:
        """Yield the tensors of one part as its file holds them."""
        for key, shape in parameter_shapes(self.config).items():
            if key.startswith(f"{part}."):
                entry = self._entry(part, key.removeprefix(f"{part}."), shape)
                if entry is not None:
                    dtype = self._dtype(part, key, merged=merged)
                    name = f"{_MERGED_PREFIXES[part]}{entry.name}" if merged else entry.name
                    blocks = partial(self._blocks, key, shape, transposed=entry.transposed)
                    yield TensorToWrite(name, entry.shape, dtype, blocks)
        if part == "vision" and self.layout.full_siglip:
            for name, shape in _TEXT_HALF.items():
                yield TensorToWrite(name, shape, self.dtype, partial(self.draw.blocks, name, shape))

    def _entry(self, part: str, key: str, shape: tuple[int, ...]) -> FileEntry | None:
        layout = self.layout
        if part == "language":
            transformers_names = "hf" if self.config.language.version == 6 else "fla"
            return language_entry(key, shape, transformers_names if layout.transformers_names else "blinkdl")
        if part == "vision":
            return vision_entry(key, shape, prefix="vision_model.", alias=layout.full_siglip)
        return projector_entry(key, shape, layout.projector_names)

    def _dtype(self, part: str, key: str, *, merged: bool) -> torch.dtype:
        """The type of a tensor in its file, which is not the same throughout in released files."""
        twice = merged and self.layout.subfolders is not None
        if part in self.layout.float32_parts and not twice:
            return torch.float32
        # transformers keeps the decay in float32 when RWKV-6 is loaded in float16, and saves what it has.
        is_kept = self.layout.transformers_names and self.dtype == torch.float16 and _KEPT_IN_FLOAT32.search(key)
        return torch.float32 if is_kept else self.dtype

    def _blocks(self, key: str, shape: tuple[int, ...], *, transposed: bool) -> Iterator[Tensor]:
        if transposed:
            yield self.draw.whole(key, shape).mT.flatten()
        else:
            yield from self.draw.blocks(key, shape)


def write_checkpoint(
    folder: Path, layout: str, language: str, *, dtype: str = "bf16", seed: int = 0, outliers: bool = False
) -> CheckpointSource:
    """Write a checkpoint into a folder. layout: in `LAYOUTS`; language: in `SIZES`; dtype: in `DTYPES`.

    Returns what a build is given. Layouts of one seed hold the same numbers, each rounded to its own types.
    """
    draw = Draw(seed, outliers)
    return CheckpointWriter(folder, LAYOUTS[layout], config_of(language), DTYPES[dtype], draw).write()


def build_arguments(source: CheckpointSource) -> str:
    """What `aurora-export build` is given to read a checkpoint."""
    options = {"language": source.language, "vision": source.vision, "projector": source.projector}
    options["vocabulary"] = source.vocabulary
    given = [str(source.path)] if source.path else []
    return " ".join([*given, *(f"--{name} {path}" for name, path in options.items() if path)])


_LAYOUT_HELP = "\b\nLayouts:\n" + "\n".join(f"  {name:<21} {layout.summary}" for name, layout in LAYOUTS.items())


@click.command(epilog=_LAYOUT_HELP)
@click.argument("out_dir", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice([*LAYOUTS]), default="released", show_default=True)
@click.option("--language", type=click.Choice([*SIZES]), default="rwkv6-1b6", show_default=True)
@click.option("--dtype", type=click.Choice([*DTYPES]), default="fp16", show_default=True, help="of most tensors")
@click.option("--seed", default=0, show_default=True)
@click.option("--outliers", is_flag=True, help="make a few channels of the norms 20 to 60 times as large")
def main(out_dir: Path, layout: str, language: str, dtype: str, seed: int, outliers: bool) -> None:  # noqa: FBT001
    """Write a random checkpoint into OUT_DIR, which must be empty or new."""
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise click.UsageError(f"{out_dir} exists and is not an empty folder; it is not overwritten")
    began = time.monotonic()
    source = write_checkpoint(out_dir, layout, language, dtype=dtype, seed=seed, outliers=outliers)
    n_bytes = sum(path.stat().st_size for path in out_dir.rglob("*") if path.is_file())
    click.echo(f"{n_bytes / 1e9:.2f} GB in {time.monotonic() - began:.0f} s")
    click.echo(f"aurora-export build {build_arguments(source)} --out NAME.aurora")


if __name__ == "__main__":
    main()
