"""Finds the files of a checkpoint: weights of each part, configuration files beside them, the vocabulary.

folder/                      language model, or all three parts with prefixes: *.safetensors, *.bin, *.pth, *.pt
├── visual_encoder/          SigLIP weights, config.json, preprocessor_config.json
├── projector/               MLP weights, config.json
├── config.json              of the language model
├── rwkv_vocab*.txt          vocabulary
└── aurora.json              profile and overrides; ours
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from fnmatch import fnmatch
from pathlib import Path

from aurora_export.errors import IntegrityError, UsageError
from aurora_export.model.json_files import read_json
from aurora_export.model.key_names import PARTS, Part
from aurora_export.model.weight_files import WeightFile, open_weights

_WEIGHTS = ("*.safetensors", "*.bin", "*.pth", "*.pt")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*", ".*")
"""What trainers leave beside the weights, and hidden files."""
_INDEX = "*.index.json"
_VOCABULARY = ("rwkv_vocab*.txt", "vocabulary.txt")
_SUBFOLDERS: dict[Part, str] = {"vision": "visual_encoder", "projector": "projector"}
OWN_SETTINGS = "aurora.json"
CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"


class Origin(IntEnum):
    """Where a tensor comes from; of equal tensors the lowest is taken."""

    EXPLICIT = 0
    OWN_FOLDER = 1
    MERGED = 2


@dataclass(frozen=True)
class CheckpointSource:
    """What the user gave: a folder or file, and parts (folders or files) that stand in for its own."""

    path: Path | None = None
    language: Path | None = None
    vision: Path | None = None
    projector: Path | None = None
    vocabulary: Path | None = None

    def explicit(self, part: Part) -> Path | None:
        """The path given for one part alone."""
        return {"language": self.language, "vision": self.vision, "projector": self.projector}[part]


@dataclass(frozen=True)
class WeightSource:
    """Files of weights that were found in one place."""

    files: list[WeightFile]
    origin: Origin
    default_part: Part
    """what a tensor without a prefix belongs to"""
    parts: frozenset[Part]
    """what is taken from here"""


@dataclass
class FoundFiles:
    """All files of one checkpoint."""

    weights: list[WeightSource] = field(default_factory=list)
    configs: dict[Part, Path] = field(default_factory=dict)
    preprocessor: Path | None = None
    own_settings: Path | None = None
    looked_for: dict[Part, list[str]] = field(default_factory=lambda: {part: [] for part in PARTS})


def find_files(source: CheckpointSource) -> FoundFiles:
    """Find and open all files of a checkpoint.

    Raises UsageError for a path that is not there, IntegrityError for damage.
    """
    found = FoundFiles()
    for part in PARTS:
        path = source.explicit(part)
        if path is not None:
            _add_part(found, part, path, Origin.EXPLICIT)
    if source.path is not None:
        _add_main(found, source.path)
    elif missing := [part for part in PARTS if source.explicit(part) is None]:
        raise UsageError(
            f"no checkpoint was given, and no {' and no '.join(missing)} part either",
            hint="give a checkpoint folder, or each part: --language, --vision, --projector",
        )
    return found


def find_vocabulary(source: CheckpointSource) -> Path:
    """Find the vocabulary: the one given, else the one beside the weights. Raises UsageError if it is not just one."""
    if source.vocabulary is not None:
        if not source.vocabulary.is_file():
            raise UsageError(f"{source.vocabulary}: no such file")
        return source.vocabulary
    places = [path for path in (source.path, source.language) if path is not None]
    folders = list(dict.fromkeys(path if path.is_dir() else path.parent for path in places))
    for folder in folders:
        for pattern in _VOCABULARY:
            matches = sorted(folder.glob(pattern))
            if len(matches) > 1:
                raise UsageError(
                    f"{folder} holds several vocabularies: {', '.join(path.name for path in matches)}",
                    hint="name the right one: --vocabulary FILE",
                )
            if matches:
                return matches[0]
    raise UsageError(
        f"no vocabulary: looked for {' and '.join(_VOCABULARY)} in {', '.join(map(str, folders))}",
        hint="the World vocabulary comes with every RWKV checkpoint; give it with --vocabulary FILE",
    )


def _add_main(found: FoundFiles, path: Path) -> None:
    """Add what was given as the checkpoint: a folder with subfolders, or one file of weights."""
    folder = path if path.is_dir() else path.parent
    files = _open_folder(path) if path.is_dir() else [open_weights(path)]
    found.weights.append(WeightSource(files, Origin.MERGED, "language", frozenset(PARTS)))
    _find_config(found, "language", folder)
    if (folder / OWN_SETTINGS).is_file():
        found.own_settings = folder / OWN_SETTINGS
    where = f"{path}/{' '.join(_WEIGHTS)}" if path.is_dir() else str(path)
    found.looked_for["language"].append(f"{where} (RWKV names, or llm.*)")
    for part, subfolder in _SUBFOLDERS.items():
        if path.is_dir():
            found.looked_for[part].append(f"{path / subfolder}/{' '.join(_WEIGHTS)}")
            if (path / subfolder).is_dir():
                _add_part(found, part, path / subfolder, Origin.OWN_FOLDER)
        found.looked_for[part].append(f"{subfolder}.* in {where}")
    if not path.is_dir() and found.preprocessor is None and (folder / PREPROCESSOR).is_file():
        found.preprocessor = folder / PREPROCESSOR


def _add_part(found: FoundFiles, part: Part, path: Path, origin: Origin) -> None:
    """Add one part: a folder or a file."""
    folder = path if path.is_dir() else path.parent
    files = _open_folder(path) if path.is_dir() else [open_weights(path)]
    if origin == Origin.EXPLICIT and not files:
        raise UsageError(f"{path} holds no weights", hint=f"looked for {', '.join(_WEIGHTS)}")
    found.weights.append(WeightSource(files, origin, part, frozenset({part})))
    _find_config(found, part, folder, own_folder=path.is_dir())
    if part == "vision" and found.preprocessor is None and (folder / PREPROCESSOR).is_file():
        found.preprocessor = folder / PREPROCESSOR


def _find_config(found: FoundFiles, part: Part, folder: Path, *, own_folder: bool = False) -> None:
    """Take config.json of a folder as that of a part, if the folder is the part's own or the file says that it is."""
    path = folder / CONFIG
    if part in found.configs or not path.is_file():
        return
    if own_folder or _part_of_config(path) == part:
        found.configs[part] = path


def _part_of_config(path: Path) -> Part | None:
    config = read_json(path)
    model_type = str(config.get("model_type", "")).lower()
    if model_type.startswith("rwkv"):
        return "language"
    if model_type.startswith("siglip"):
        return "vision"
    return "projector" if "visual_hidden_size" in config else None


def _open_folder(folder: Path) -> list[WeightFile]:
    """Open all files of weights in a folder, and hold them against the index of their shards, if there is one."""
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        raise UsageError(f"{folder} cannot be read: {error.strerror}") from error
    chosen = {
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in _WEIGHTS)
        and not any(fnmatch(name, pattern) for pattern in _NOT_WEIGHTS)
    }
    indexes = {folder / name: _read_index(folder / name) for name in names if fnmatch(name, _INDEX)}
    for path, shard_of_tensor in indexes.items():
        for shard in sorted(set(shard_of_tensor.values())):
            if not (folder / shard).is_file():
                raise IntegrityError(f"{folder / shard} is missing, but {path.name} lists it")
            chosen.add(shard)
    files = {name: open_weights(folder / name) for name in sorted(chosen)}
    for path, shard_of_tensor in indexes.items():
        absent = [name for name, shard in shard_of_tensor.items() if name not in files[shard].tensors]
        if absent:
            raise IntegrityError(
                f"{path} lists tensors that their files do not hold: {absent[0]} in {shard_of_tensor[absent[0]]}"
                + (f" and {len(absent) - 1} more" if len(absent) > 1 else "")
            )
    return list(files.values())


def _read_index(path: Path) -> dict[str, str]:
    """The map from tensor to file of an index.json. File names are plain: none can leave the folder."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise IntegrityError(f"{path} has no weight_map from tensor names to file names")
    for shard in weight_map.values():
        if shard in ("", ".", "..") or "/" in shard or "\\" in shard or "\0" in shard:
            raise IntegrityError(f"{path}: {shard!r} is not a plain file name in the same folder")
    return weight_map
