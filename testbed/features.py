"""Visual tokens of many scenes, made once: the vision tower is frozen while the language model is trained.

Beside the tokens of each frame stands what a perfect observer would know after it: the dense targets that make
motion and order learnable.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aurora_export.model.vision import VisionTower, normalise_frames
from network import make_config
from render import draw_frames
from scenes import COLOURS, DIRECTIONS, SHAPES, Scene, sample_scene
from train_vision import PatchHeads

_MOVED = 3 / 64
"""An object counts as moving once it has gone this far (3 of 64 pixels): less is not visible."""
_SCENES_PER_TASK = 16
N_BINS = 8


@dataclass(frozen=True)
class Observations:
    """What is known after each frame of N scenes; all int64. Colours are counted from 1, 0 is none."""

    motion: Tensor
    """per colour: 0 not seen yet, 1 seen, not moved yet, 2.. direction; shape (N, F, colours)"""
    shape: Tensor
    """per colour: 0 not seen yet, 1.. shape; shape (N, F, colours)"""
    place: Tensor
    """per colour: bins of x and y, -1 where not in view; shape (N, F, colours, 2)"""
    first: Tensor
    """colour that appeared first, shape (N, F)"""
    last: Tensor
    """colour that appeared last, shape (N, F)"""
    count: Tensor
    """objects seen so far, shape (N, F)"""

    def take(self, index: Tensor) -> Observations:
        """The rows of some of the scenes."""
        return Observations(**{name: value[index] for name, value in vars(self).items()})


@dataclass(frozen=True)
class FeatureSet:
    """Scenes of one duration at one kept ratio."""

    scenes: list[Scene]
    tokens: Tensor
    """float16, before the projector, shape (N, F, K, D)"""
    colour: Tensor
    """colour of the object that each token shows, as the tower's own read-out sees it; 0 none; int8, shape (N, F, K)"""
    observations: Observations


def observe(scene: Scene, times_s: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of `Observations` for one scene."""
    n_frames, n_colours = len(times_s), len(COLOURS)
    seen_by: dict[str, np.ndarray] = {
        "motion": np.zeros((n_frames, n_colours), np.int8),
        "shape": np.zeros((n_frames, n_colours), np.int8),
        "place": np.full((n_frames, n_colours, 2), -1, np.int8),
        "first": np.zeros(n_frames, np.int8),
        "last": np.zeros(n_frames, np.int8),
        "count": np.zeros(n_frames, np.int8),
    }
    for item in scene.objects:  # in order of appearance
        colour = list(COLOURS).index(item.colour)
        seen, visible = times_s >= item.appears_s, item.visible(times_s)
        moved = seen & (item.progress(times_s) * np.hypot(item.dx, item.dy) >= _MOVED)
        seen_by["motion"][:, colour] = np.where(moved, 2 + list(DIRECTIONS).index(item.direction), seen)
        seen_by["shape"][:, colour] = seen * (1 + SHAPES.index(item.shape))
        bins = np.clip(item.positions(times_s) * N_BINS, 0, N_BINS - 1).astype(np.int8)
        seen_by["place"][:, colour] = np.where(visible[:, None], bins, -1)
        seen_by["first"] = np.where((seen_by["first"] == 0) & seen, colour + 1, seen_by["first"])
        seen_by["last"] = np.where(seen, colour + 1, seen_by["last"])
        seen_by["count"] += seen
    return seen_by


def sampled_times(scene: Scene) -> np.ndarray:
    """One frame a second, shape (F,), from a phase drawn from the seed: a player need not start on the first frame."""
    return scene.times_s + np.random.default_rng((scene.seed, 5)).uniform(0, 0.9)


_weights: dict[str, dict[str, Tensor]] = {}


def _start_worker(path: Path) -> None:
    torch.set_num_threads(1)
    _load_tower(path)


def _load_tower(path: Path) -> None:
    _weights.update(torch.load(path, weights_only=True))


@dataclass(frozen=True)
class _Made:
    """What a worker makes of its scenes: one array of tokens and one of colours per setting, and observations."""

    tokens: list[np.ndarray]
    colours: list[np.ndarray]
    rows: list[dict[str, np.ndarray]]


@torch.inference_mode()
def _make(task: tuple[Sequence[int], int, Sequence[tuple[float, str]]]) -> _Made:
    seeds, duration_s, settings = task
    scenes = [sample_scene(seed, duration_s=duration_s) for seed in seeds]
    times = [sampled_times(scene) for scene in scenes]
    drawn = np.concatenate([draw_frames(scene, t) for scene, t in zip(scenes, times, strict=True)])
    made = _Made([], [], [observe(scene, t) for scene, t in zip(scenes, times, strict=True)])
    heads = PatchHeads(make_config().vision.width)
    heads.load_state_dict(_weights["heads"])
    for kept_ratio, order in settings:
        config = make_config(kept_ratio=kept_ratio, order=order)
        tower = VisionTower(config)
        tower.load_state_dict(_weights["tower"])
        parts = [tower(normalise_frames(part, config.frames)).tokens for part in torch.from_numpy(drawn).split(64)]
        tokens = torch.cat(parts).unflatten(0, (len(scenes), -1))
        made.tokens.append(tokens.to(torch.float16).numpy())
        made.colours.append(heads(tokens)[0].argmax(-1).to(torch.int8).numpy())
    return made


def make_features(
    weights: Path,
    seeds: Sequence[int],
    *,
    duration_s: int,
    settings: Sequence[tuple[float, str]] = ((0.1, "ascending"),),
    n_processes: int = 2,
) -> list[FeatureSet]:
    """One set for each (kept ratio, order) in `settings`, of the same scenes.

    weights: file of train_vision.  n_processes: 0 works in this process.
    """
    size = max(1, _SCENES_PER_TASK * 8 // duration_s)
    tasks = [(seeds[i : i + size], duration_s, settings) for i in range(0, len(seeds), size)]
    if n_processes == 0:
        _load_tower(weights)
        results = [_make(task) for task in tasks]
    else:
        context = get_context("spawn")
        with ProcessPoolExecutor(n_processes, context, initializer=_start_worker, initargs=(weights,)) as pool:
            results = list(pool.map(_make, tasks))
    scenes = [sample_scene(seed, duration_s=duration_s) for seed in seeds]
    rows = [row for made in results for row in made.rows]
    observations = Observations(
        **{name: torch.from_numpy(np.stack([row[name] for row in rows])).long() for name in rows[0]}
    )
    return [
        FeatureSet(
            scenes,
            torch.from_numpy(np.concatenate([made.tokens[i] for made in results])),
            torch.from_numpy(np.concatenate([made.colours[i] for made in results])),
            observations,
        )
        for i in range(len(settings))
    ]
