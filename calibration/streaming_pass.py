"""The clips through a graph of a bundle, with statistics of every tapped tensor; resumable after each clip.

First the vision graph for all clips, whose tokens go to a working folder, then the language graph: only one of them is
in memory. Once each, but for second moments that are too many to be summed together. The working folder stands beside
the scale file until that is written; a pass that was interrupted goes on there after the last clip that was saved, if
model, clips and settings are the same.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aurora_export.calibration.clips import Clip, Showing
from aurora_export.calibration.taps import ReplayedEngine, TappedEngine
from aurora_export.calibration.tensor_statistics import TensorStatistics
from aurora_export.errors import IntegrityError
from aurora_export.frames import resize_frame
from aurora_export.manifest import Manifest, resolve
from aurora_export.runtime.engine import Engine
from aurora_export.runtime.opened_bundle import open_bundle
from aurora_export.runtime.session import Aurora
from aurora_export.runtime.video import open_source

SAVE_EVERY_S = 10.0
SAVING_SHARE = 20.0
"""Times as long as saving took, at least, that nothing is saved again."""

SEEN_FILES = "seen-*.npz"
"""In the working folder: what the passes have seen so far."""

Detail = Callable[[str], None]

_log = logging.getLogger(__name__)


@dataclass
class Seen:
    """What a pass has collected."""

    tensors: dict[str, TensorStatistics] = field(default_factory=dict)
    """name of a value in a graph -> its statistics"""
    n_frames: int = 0
    n_tokens: int = 0
    """through the language graph in runs of several"""
    n_steps: int = 0
    """one by one"""


@dataclass
class Pass:
    """One pass over the clips of a bundle whose files were verified."""

    bundle: Path
    manifest: Manifest
    clips: Sequence[Clip]
    showing: Showing
    graph: str
    """vision, which leaves the tokens of each clip in the folder, or language, which reads them there"""
    taps: Mapping[str, str]
    """name of a value of the graph to watch -> what it is called in messages"""
    folder: Path
    """the working folder"""
    with_moments: frozenset[str] = frozenset()
    """of the taps those whose second moments are needed"""
    part: int = 0
    """which of several passes over the same graph this is"""
    threads: int | None = None

    def run(self, detail: Detail) -> Seen:
        """Statistics of what is tapped."""
        return {"vision": self._run_vision, "language": self._run_language}[self.graph](detail)

    def has_moments(self, seen: Seen) -> bool:
        """Whether all moments of this pass are in `seen`: they are not where it was saved without them."""
        return bool(self.with_moments) and all(seen.tensors[name].has_moments for name in self.with_moments)

    def save(self, seen: Seen, n_clips: int | None = None) -> None:
        """Keep what was seen of so many clips, of all where no number is given, to go on from."""
        _save_seen(self._seen_path, seen, len(self.clips) if n_clips is None else n_clips)

    def _run_vision(self, detail: Detail) -> Seen:
        seen, first = self._resume()
        collector = _Collector(seen, self.with_moments, "frame", self.taps)
        engine = TappedEngine(
            resolve(self.bundle, self.manifest, "vision"),
            self.manifest.contract["vision"],
            self.taps,
            collector.add,
            threads=self.threads,
        )
        for index in self._clips_from(first, seen, detail):
            clip = self.clips[index]
            collector.clip, engine.n_before = clip.video.name, 0
            with open_source(clip.video, num_frames=self.showing.num_frames) as frames:
                outputs = [engine.run({"frames": self._resized(frame.pixels)[None]}) for frame in frames]
            seen.n_frames += len(outputs)
            stacked = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
            _save_arrays(self._tokens_of(index), stacked)
        return seen

    def _run_language(self, detail: Detail) -> Seen:
        seen, first = self._resume()
        collector = _Collector(seen, self.with_moments, "token", self.taps)
        replayed = ReplayedEngine(self.manifest.contract["vision"])

        tapped = TappedEngine(
            resolve(self.bundle, self.manifest, "language"),
            self.manifest.contract["language"],
            self.taps,
            collector.add,
            threads=self.threads,
        )
        engines: dict[str, Engine] = {"vision": replayed, "language": tapped}
        aurora = Aurora(
            open_bundle(self.bundle, n_ahead=0, verify=False, open_engine=lambda name, _path, _spec: engines[name])
        )
        if first and not self.showing.is_first(first):
            aurora.load(self._state_path)
        for index in self._clips_from(first, seen, detail, lambda: aurora.save(self._state_path)):
            clip = self.clips[index]
            if self.showing.is_first(index):
                aurora.reset()
            collector.clip, tapped.n_before = clip.video.name, 0
            self._watch(aurora, replayed, index)
            n_steps = sum(1 for _ in aurora.generate_ids(clip.prompt, max_tokens=self.showing.answer_tokens))
            seen.n_steps += n_steps
            seen.n_tokens += tapped.n_before - n_steps
        return seen

    def _watch(self, aurora: Aurora, replayed: ReplayedEngine, index: int) -> None:
        """Show the frames of a clip, whose tokens are known."""
        tokens = _load_arrays(self._tokens_of(index))
        n_frames, side = len(tokens["visual_tokens"]), self.manifest.config.vision.image_size
        replayed.coming = [{name: array[i : i + 1] for name, array in tokens.items()} for i in range(n_frames)]
        is_primed = self.showing.is_primed(index) and self.manifest.config.prompt.sandwich == "duplicate"
        aurora.watch(
            [np.zeros((side, side, 3), np.uint8)] * n_frames, prompt=self.clips[index].prompt if is_primed else None
        )

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        frames = self.manifest.config.frames
        size = self.manifest.config.vision.image_size
        return resize_frame(pixels, size=size, mode=frames.resize, pad_value=frames.pad_value)

    def _clips_from(
        self, first: int, seen: Seen, detail: Detail, save_state: Callable[[], object] | None = None
    ) -> Iterator[int]:
        """The clips that are left, with word of how long they take; what was seen is saved between them."""
        started = last_saved = time.monotonic()
        saving_s = 0.0
        for index in range(first, len(self.clips)):
            n_done = index - first
            left = (time.monotonic() - started) / n_done * (len(self.clips) - index) if n_done else None
            detail(f"clip {index + 1} of {len(self.clips)}" + (f", {_duration(left)} left" if left is not None else ""))
            yield index
            is_last = index + 1 == len(self.clips)
            begun = time.monotonic()
            # Second moments are gigabytes: what is spent on saving them is a small share of the time.
            if is_last or begun - last_saved > max(SAVE_EVERY_S, SAVING_SHARE * saving_s):
                if save_state is not None:
                    save_state()
                self.save(seen, index + 1)
                last_saved = time.monotonic()
                saving_s = last_saved - begun

    def _resume(self) -> tuple[Seen, int]:
        """What was seen before, and the first clip that was not."""
        if not self._seen_path.exists():
            return Seen(), 0
        seen, n_clips = _load_seen(self._seen_path)
        if n_clips < len(self.clips):
            _log.info("%s: goes on after clip %d of %d", self.graph, n_clips, len(self.clips))
        return seen, n_clips

    @property
    def _seen_path(self) -> Path:
        return self.folder / SEEN_FILES.replace("*", f"{self.graph}-{self.part}")

    def _tokens_of(self, index: int) -> Path:
        return self.folder / f"clip-{index:05d}.npz"

    @property
    def _state_path(self) -> Path:
        return self.folder / f"{self.graph}-{self.part}.aurstate"


class _Collector:
    """Counts what the taps see, and refuses what is not finite by name and place."""

    def __init__(self, seen: Seen, with_moments: frozenset[str], unit: str, called: Mapping[str, str]) -> None:
        self._seen, self._with_moments, self._unit, self._called = seen, with_moments, unit, called
        self.clip = ""

    def add(self, values: Mapping[str, np.ndarray], n_before: int) -> None:
        """values: name of a tap -> float32, shape (1, rows, channels), (1, channels), or (1, channels, H, W)."""
        for name, value in values.items():
            # Of a picture the channels are not the last axis.
            array = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
            known = self._seen.tensors.get(name)
            if known is None:
                known = TensorStatistics(array.shape[-1], with_moments=name in self._with_moments)
                self._seen.tensors[name] = known
            try:
                known.add(array)
            except ValueError as error:
                raise self._not_finite(name, array, n_before) from error

    def _not_finite(self, name: str, array: np.ndarray, n_before: int) -> IntegrityError:
        bad = ~np.isfinite(array)
        row = 0 if self._unit == "frame" else int(np.flatnonzero(bad.reshape(-1, array.shape[-1]).any(axis=1))[0])
        kind = "not a number" if np.isnan(array).any() else "infinite"
        place = f"clip {self.clip}, {self._unit} {n_before + row}"
        return IntegrityError(
            f"{self._called[name]}: {int(bad.sum())} values are {kind}: {place}",
            hint="check the bundle with `aurora-export check`; a model that overflows cannot be calibrated",
        )


@contextmanager
def working_folder(out: Path, key: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of a pass, beside the scale file; removed if all went well, kept to go on there if not.

    key: what the pass is of: a folder of another one is emptied.
    """
    folder = out.with_name(f".{out.name}.calibration")
    note, text = folder / "of.json", json.dumps(key, sort_keys=True)
    if folder.exists() and not (note.is_file() and note.read_text(encoding="utf-8") == text):
        _log.warning("%s: is of another calibration that did not end; begins anew", folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(text, encoding="utf-8")
    yield folder
    shutil.rmtree(folder)


def _save_seen(path: Path, seen: Seen, n_clips: int) -> None:
    arrays = {f"{name}|{key}": array for name, entry in seen.tensors.items() for key, array in entry.arrays().items()}
    arrays["counts"] = np.array([n_clips, seen.n_frames, seen.n_tokens, seen.n_steps])
    _save_arrays(path, arrays)


def _load_seen(path: Path) -> tuple[Seen, int]:
    arrays = _load_arrays(path)
    n_clips, *counts = (int(count) for count in arrays.pop("counts"))
    by_tensor: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        tensor, _, key = name.rpartition("|")
        by_tensor.setdefault(tensor, {})[key] = array
    tensors = {name: TensorStatistics.from_arrays(entry) for name, entry in by_tensor.items()}
    return Seen(tensors, *counts), n_clips


def _save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    partial.replace(path)


def _load_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays.items())


def _duration(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 90 else f"about {seconds / 60:.0f} min"
