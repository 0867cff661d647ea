"""A manifest, edits of it, and what the reader says or makes of each."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from aurora_export.config import AuroraConfig, config_from_parts
from aurora_export.contract import graphs
from aurora_export.errors import AuroraError
from aurora_export.manifest import MANIFEST_NAME, FileEntry, Manifest, Verification, read_manifest
from made_inputs import FILES, SIZES_7

ENGINES = {
    "tensorrt-rtx": {
        "files": {"vision": "engines/tensorrt-rtx/vision.engine"},
        "builder": {"tensorrt_rtx": "1.7.1.116"},
        "compute_capabilities": ["8.6"],
        "profiles": {"vision": [{"F": [1, 1, 8]}]},
    }
}
ENTRY = {"size": 1, "sha256": "ab" * 32}
DELETED = "__deleted__"
"""As the value of an edit: the key is taken out."""

BAD_PATHS = (
    "/etc/passwd",
    "../outside",
    "onnx/../../outside",
    "C:/windows",
    "a\\b",
    "",
    "./x",
    "a//b",
    "x/",
    "a\0b",
    "é/../x",
)

Edit = tuple[list[Any], Any]


VISION, MERGE = ["config", "vision"], ["config", "merge"]
LANGUAGE, PROMPT, FRAMES = ["config", "language"], ["config", "prompt"], ["config", "frames"]
SINGLE_EDITS: list[Edit] = [
    (["name"], "other"),
    (["extra"], 1),
    (["name"], 1),
    (["config"], DELETED),
    ([*MERGE, "sort"], DELETED),
    ([*MERGE, "sort"], "none"),
    ([*MERGE, "sort"], "sometimes"),
    ([*MERGE, "kept_ratio"], 1.5),
    ([*MERGE, "kept_ratio"], 0),
    ([*MERGE, "kept_ratio"], 1),
    ([*MERGE, "kept_ratio"], 0.30000000000000004),
    ([*MERGE, "schedule"], "exact"),
    ([*MERGE, "protect_first"], None),
    ([*MERGE, "drop_first"], False),
    ([*VISION, "image_size"], 0),
    ([*VISION, "image_size"], 4097),
    ([*VISION, "image_size"], 70),
    ([*VISION, "image_size"], []),
    ([*VISION, "patch_size"], 65),
    ([*VISION, "patch_size"], 1),
    ([*VISION, "width"], 33),
    ([*VISION, "layers_used"], 6),
    ([*VISION, "layers_used"], 2),
    ([*VISION, "n_layers"], 1001),
    ([*VISION, "layer_norm_eps"], 1e-12),
    ([*VISION, "secret"], 1),
    ([*FRAMES, "resize"], "fit"),
    ([*FRAMES, "resize"], "pad"),
    ([*FRAMES, "mean"], [0.5, 0.5]),
    ([*FRAMES, "mean"], [0.48145466, 0, 1]),
    ([*FRAMES, "mean"], [0.5, 0.5, []]),
    ([*FRAMES, "mean"], [2, 0.5, 0.5]),
    ([*FRAMES, "std"], [0, 0.5, 0.5]),
    ([*LANGUAGE, "version"], 5),
    ([*LANGUAGE, "version"], 6),
    ([*LANGUAGE, "head_size"], 48),
    ([*LANGUAGE, "low_ranks"], {"decay": 8}),
    ([*LANGUAGE, "low_ranks"], {"decay": 8, "rate": 8, "value": 8, "gate": []}),
    ([*LANGUAGE, "group_norm_eps"], DELETED),
    ([*LANGUAGE, "layer_norm_eps"], 1e22),
    ([*PROMPT, "sandwich"], "club"),
    ([*PROMPT, "frame_separator"], "\t"),
    ([*PROMPT, "frame_separator"], "\n"),
    ([*PROMPT, "instruction"], ""),
    ([*PROMPT, "instruction"], 'Größe? "\\" 😀 \u2028\x7f\x01\n/'),
    ([*PROMPT, "stop_ids"], [0, 261]),
    ([*PROMPT, "stop_texts"], ["\n\nUser:", "é"]),
    (["precision"], "fp8"),
    (["precision"], "int8"),
    (["created"], DELETED),
    (["source"], {"a": 1}),
    (["contract", "vision", "inputs", 0, "dtype"], "float64"),
    (["contract", "vision", "inputs", 0, "secret"], 0),
    (["files", "language"], DELETED),
    (["files", "more"], "onnx/vision.onnx"),
    (["digests", "onnx/vision.onnx"], DELETED),
    (["digests", "onnx/vision.onnx", "size"], -1),
    (["digests", "onnx/vision.onnx", "sha256"], "AB" * 32),
    (["digests", "onnx/vision.onnx", "sha256"], DELETED),
    (["digests", "onnx/vision.onnx", "secret"], 1),
    (["digests", "readme"], ENTRY),
    (["digests", "onnx/more.data"], ENTRY),
    (["residual_divisor"], 0),
    (["residual_divisor"], DELETED),
    (["verification", "merge_flips"], -1),
    (["verification", "outputs"], {"logits": {"error": 0.1, "limit": 1, "metric": "max"}}),
    (["verification", "outputs"], {"logits": {"error": [], "limit": 1, "metric": "max"}}),
    (["schema_version"], DELETED),
    (["schema_version"], "2.0"),
    (["schema_version"], "0.9"),
    (["schema_version"], "1"),
    (["schema_version"], "1.x"),
    (["schema_version"], "1.0"),
    (["engines"], DELETED),
    (["engines"], ENGINES),
    *((["files", "vision"], path) for path in BAD_PATHS),
    *((["digests", path], ENTRY) for path in BAD_PATHS),
]
ENGINES_DIGEST: Edit = (["digests", ENGINES["tensorrt-rtx"]["files"]["vision"]], ENTRY)  # type: ignore[index]
EDITS: list[list[Edit]] = [
    [],
    *([edit] for edit in SINGLE_EDITS),
    [(["schema_version"], "1.7"), (["novelty"], {"x": 1})],
    [(["schema_version"], "1.7"), ([*MERGE, "novelty"], 1)],
    [(["engines"], ENGINES), ENGINES_DIGEST],
    [(["engines"], ENGINES), (["engines", "tensorrt-rtx", "secret"], 1)],
    [(["engines"], ENGINES), (["engines", "tensorrt-rtx", "files", "vision"], "../vision.engine")],
    [([*MERGE, "kept_ratio"], 0.001), ([*MERGE, "schedule"], "exact"), ([*VISION, "layers_used"], 5)],
    [([*MERGE, "split"], "patches_only"), ([*MERGE, "protect_first"], False)],
]
"""Each is a list of (path of keys, value)."""


def small_config() -> AuroraConfig:
    """RWKV-7, 64 patches a frame."""
    return config_from_parts(SIZES_7)


def manifest_of(config: AuroraConfig) -> dict[str, Any]:
    """As JSON."""
    manifest = Manifest(
        name="made",
        created="2026-11-23T00:00:00Z",
        source={"layout": "none"},
        precision="fp32",
        config=config,
        contract=dict(graphs(config)),
        files=FILES,
        digests={
            path: FileEntry(size=index, sha256=f"{index:064x}")
            for index, path in enumerate((*FILES.values(), "onnx/language.onnx.data"))
        },
        layer_outputs={"vision": ["a"], "language": []},
        tools={"onnx": "1"},
        verification=Verification(outputs={}, merge_flips=0, n_frames=1, n_tokens=2),
    )
    return json.loads(manifest.model_dump_json())


def edited(content: dict[str, Any], changes: list[Edit]) -> dict[str, Any]:
    """A copy with the edits made."""
    content = copy.deepcopy(content)
    for path, value in changes:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        if value == DELETED:
            del place[path[-1]]
        else:
            place[path[-1]] = copy.deepcopy(value)
    return content


def outcome(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Message and exit code, with B for the folder; or what the manifest comes to."""
    (folder / MANIFEST_NAME).write_text(json.dumps(content), encoding="utf-8")
    try:
        manifest = read_manifest(folder)
    except AuroraError as error:
        return {"status": error.exit_code, "message": error.message.replace(str(folder), "B")}
    config = manifest.config
    return {
        "status": 0,
        "fingerprint": manifest.fingerprint,
        "tokens_per_frame": config.tokens_per_frame,
        "pad_value": config.frames.pad_value,
        "contract_is_ours": dict(graphs(config)) == manifest.contract,
    }


def cases() -> dict[str, Any]:
    """The manifest, and the outcome of each edit."""
    base = manifest_of(small_config())
    with tempfile.TemporaryDirectory() as name:
        results = [{"edits": changes, **outcome(edited(base, changes), Path(name))} for changes in EDITS]
    return {"manifest": base, "deleted": DELETED, "cases": results}
