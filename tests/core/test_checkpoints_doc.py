"""docs/CHECKPOINTS.md says of settings, token counts and messages what the code says."""

from __future__ import annotations

import ast
import json
import re
from typing import get_args, get_origin

import pytest

from aurora_export.config import PROFILES, AuroraConfig, FramesConfig, MergeConfig, PromptConfig, config_from_parts

L_16 = {"image_size": 384, "patch_size": 16, "width": 1024, "n_layers": 24, "n_heads": 16, "mlp_width": 4096}
SO400M = {**L_16, "patch_size": 14, "width": 1152, "n_layers": 27, "mlp_width": 4304}
RWKV = {
    "version": 6,
    "n_layers": 24,
    "width": 2048,
    "head_size": 64,
    "ffn_width": 7168,
    "vocabulary_size": 65536,
    "low_ranks": {"mix": 32, "decay": 64},
}
NOT_SIZES = {
    "vision.layers_used",
    "vision.layer_norm_eps",
    "vision.n_heads",
    "vision.image_size",
    "language.layer_norm_eps",
    "language.group_norm_eps",
}
"""Settings in sections of sizes that no shape decides."""

FROM_FILES = {
    "vision.n_heads": "from config.json",
    "vision.image_size": "from config.json",
    "vision.layers_used": "n_layers - 1",
}
WORDS = {"": "nothing", " ": "a space", "\n": "a newline"}


@pytest.fixture(scope="module")
def text(root):
    return (root / "docs" / "CHECKPOINTS.md").read_text(encoding="utf-8")


def table(text, first_header):
    """Rows of the table whose first column has this header, as lists of cells."""
    lines = text[text.index(f"| {first_header} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def made(tower=L_16, profile="released", **merge):
    sizes = {"vision": dict(tower), "projector": {"hidden_width": 2048}, "language": RWKV}
    return config_from_parts(sizes, profile=profile, overrides=[{"merge": merge}])


def written(value):
    """A default as the table writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return WORDS.get(value, str(value))


def test_every_switch_is_in_the_table_with_its_defaults(text):
    rows = {row[0].strip("`"): row for row in table(text, "switch")}
    sections = {"merge": MergeConfig, "frames": FramesConfig, "prompt": PromptConfig}
    fields = {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields}
    assert set(rows) == fields | NOT_SIZES
    for name, (_, values, *defaults, why) in rows.items():
        section, _, key = name.partition(".")
        for profile, default in zip(("released", "paper"), defaults, strict=True):
            value = getattr(getattr(made(profile=profile), section), key)
            assert default == FROM_FILES.get(name, written(value)), (name, profile)
        annotation = AuroraConfig.model_fields[section].annotation.model_fields[key].annotation
        if get_origin(annotation) is not None and isinstance(get_args(annotation)[0], str):
            assert values == ", ".join(WORDS.get(value, value) for value in get_args(annotation)), name
        assert why


def test_the_tables_columns_are_the_profiles(text):
    assert f"| {' | '.join(PROFILES)} |" in text


def test_tokens_per_frame(text):
    rows = table(text, "kept ratio")
    assert len(rows) == 12
    for ratio, *counts in rows:
        for count, (tower, profile) in zip(
            counts, [(tower, profile) for tower in (L_16, SO400M) for profile in PROFILES], strict=True
        ):
            config = made(tower, profile, kept_ratio=float(ratio))
            assert count == f"{config.tokens_per_frame}{'*' if config.unreached_ratio else ''}", (ratio, profile)


def test_settings_in_the_examples_exist(text):
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    settings = json.loads(example)
    profile = settings.pop("profile")
    sizes = {"vision": dict(L_16), "projector": {"hidden_width": 2048}, "language": RWKV}
    assert config_from_parts(sizes, profile=profile, overrides=[settings]).merge.order == "descending"
    for section, key in re.findall(r"--set (\w+)\.(\w+)=", text):
        if section != "section":
            assert key in AuroraConfig.model_fields[section].annotation.model_fields


def messages_of(root):
    """Every text in the code that reads checkpoints, with ... for what is filled in."""
    found = set()
    for path in [*(root / "model").glob("*.py"), *(root / "core").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_messages_are_those_of_the_code(text, root):
    messages = messages_of(root)
    rows = table(text, "message")
    assert len(rows) > 30
    unknown = []
    for row in rows:
        written = re.match(r"`(.+?)`", row[0])[1]
        pieces = [piece.strip() for piece in written.split("…") if len(piece.strip()) > 3]
        if not any(all(piece in message for piece in pieces) for message in messages):
            unknown.append(written)
    assert not unknown
