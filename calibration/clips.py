"""The clips of a calibration, and how each is shown: the same frames, texts and order every time.

Statistics are to hold for a state of any age. So clips come in sequences: the first one of a sequence is watched from
the empty state, and each further one as a new turn of the same conversation, at whose end the state has seen several
videos. Frames and texts are read in runs of many tokens, the answers one token at a time. Every second clip has its
question before the frames too, where the model's prompt has such a form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from aurora_export.errors import UsageError
from aurora_export.manifest import hash_file

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm")
MIN_CLIPS = 2
DEFAULT_PROMPT = "Describe the video."
KEYS = {"video", "prompt", "answer", "kind"}
"""Of a line; a list of questions with answers serves too."""

HINT = 'a folder of videos, or a file of lines such as {"video": "clip.mp4", "prompt": "What happens?"}'


@dataclass(frozen=True)
class Clip:
    """One video and what is asked about it."""

    video: Path
    prompt: str = DEFAULT_PROMPT


@dataclass(frozen=True)
class Showing:
    """How clips are shown."""

    num_frames: int = 8
    """of each, spread evenly"""
    answer_tokens: int = 32
    """most single steps after each"""
    clips_per_sequence: int = 4
    """that one state sees"""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise UsageError(f"{name} is {value}; at least 1 is needed")

    def is_first(self, index: int) -> bool:
        """Whether a clip begins with the empty state."""
        return index % self.clips_per_sequence == 0

    def is_primed(self, index: int) -> bool:
        """Whether a clip's question is also read before its frames."""
        return index % 2 == 1


def read_clips(data: Path) -> list[Clip]:
    """The clips of a folder, by name, or of a JSONL file, by line; its paths are relative to it.

    Raises UsageError (nothing there, not enough, or a line that is none).
    """
    if not data.exists():
        raise UsageError(f"{data}: no such file or folder", hint=f"--data is {HINT}")
    clips = _clips_of_folder(data) if data.is_dir() else _clips_of_file(data)
    if not clips:
        raise UsageError(f"{data}: holds no clips", hint=f"--data is {HINT}")
    if len(clips) < MIN_CLIPS:
        raise UsageError(
            f"{data}: holds one clip; ranges from it would fit that clip and no other",
            hint=f"give at least {MIN_CLIPS}, better 32, of what the model is to see",
        )
    return clips


def _clips_of_folder(folder: Path) -> list[Clip]:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    return [Clip(path) for path in paths]


def _clips_of_file(path: Path) -> list[Clip]:
    clips = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise UsageError(f"{path}: is no text file", hint=f"--data is {HINT}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: not valid JSON: {error}", hint=f"--data is {HINT}") from error
        is_clip = isinstance(entry, dict) and isinstance(entry.get("video"), str) and set(entry) <= KEYS
        prompt = entry.get("prompt", DEFAULT_PROMPT) if is_clip else None
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{path}, line {number}: no object with `video` and `prompt`", hint=f"--data is {HINT}")
        video = path.parent / entry["video"]
        if not video.is_file():
            raise UsageError(f"{path}, line {number}: {video}: no such file")
        clips.append(Clip(video, prompt))
    return clips


def data_digest(clips: Sequence[Clip], showing: Showing) -> str:
    """SHA-256 over the contents of the videos, the prompts, and how all are shown; names of files do not count."""
    digest = hashlib.sha256(json.dumps(asdict(showing), sort_keys=True).encode())
    for clip in clips:
        digest.update(json.dumps([hash_file(clip.video).sha256, clip.prompt]).encode())
    return digest.hexdigest()
