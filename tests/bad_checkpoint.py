"""What the tests of refused checkpoints share: a whole checkpoint to spoil, and how a refusal is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from aurora_export.errors import AuroraError
from aurora_export.model.checkpoint import CheckpointSource, load_checkpoint


def write_whole(folder: Path) -> Path:
    """A whole checkpoint in the released layout, RWKV-6 under BlinkDL's names, in .bin files."""
    config = tiny.tiny_config(6)
    tiny.write_released(folder, config, tiny.tiny_weights(config), language_names="blinkdl", suffix=".bin")
    return folder


def language(folder: Path) -> dict[str, torch.Tensor]:
    """The language model's tensors, to be changed and written again."""
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def rewrite(folder: Path, tensors: object) -> None:
    """Write the language model's file again."""
    torch.save(tensors, folder / "pytorch_model.bin")


def edit_json(path: Path, **changes: Any) -> None:
    """Change some keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(source: CheckpointSource | Path, **options: Any) -> AuroraError:
    """The error that loading ends with."""
    source = source if isinstance(source, CheckpointSource) else CheckpointSource(source)
    with pytest.raises(AuroraError) as caught:
        load_checkpoint(source, **options)
    return caught.value


def assert_refused(
    source: CheckpointSource | Path, message: str, exit_code: int, *, hint: str | None = None, **options: Any
) -> None:
    """Compare the whole message, the exit code and, if given, the hint."""
    error = refusal(source, **options)
    assert (error.message, error.exit_code) == (message, exit_code)
    if hint is not None:
        assert error.hint == hint
