"""Synthetic scenes of moving shapes, and questions that each scene answers.

A scene is described in units that do not depend on how it is drawn: lengths as a share of the frame's side, times in
seconds. One second is one frame of what the model sees (`--fps 1`). Everything follows from one integer seed, and
the seeds of training and of measurement never meet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 36, 36),
    "green": (40, 190, 60),
    "blue": (48, 84, 236),
    "yellow": (240, 216, 40),
    "purple": (176, 52, 210),
    "white": (244, 244, 244),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
DIRECTIONS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three")

HELD_OUT_SEEDS = range(1_000_000)
TRAINING_SEEDS = range(1_000_000, 2_000_000_000)

# Lengths below are in pixels of the 64-pixel frame that the model sees, so that they can be compared with a patch.
_SIDE_PX = 64
_RADIUS_PX = (7.0, 9.5)
_DISPLACEMENT_PX = (22.0, 36.0)
_MARGIN_PX = 2.0
# Two objects never appear in the same second: at one frame a second their order would not be visible.
_APPEARANCE_GAP_S = 1.2
# The shortest time that an object is in view while it moves; four frames see it.
_SHORTEST_MOVE_S = 3.2
_LONGEST_MOVE_S = 9.0
_DRIFT_RADIANS = 0.12


@dataclass(frozen=True)
class MovingObject:
    """One shape: it appears, moves in a straight line from `moves_s` to `rests_s`, rests, and may leave."""

    colour: str
    shape: str
    direction: str
    radius: float
    x: float
    y: float
    dx: float
    dy: float
    appears_s: float
    moves_s: float
    rests_s: float
    leaves_s: float

    def progress(self, times_s: np.ndarray) -> np.ndarray:
        """Share of the displacement done at each time, shape (F,), in 0..1."""
        return np.clip((times_s - self.moves_s) / (self.rests_s - self.moves_s), 0.0, 1.0)

    def positions(self, times_s: np.ndarray) -> np.ndarray:
        """Centre at each time, shape (F, 2), as shares of the side, y downwards."""
        done = self.progress(times_s)[:, None]
        return np.array([[self.x, self.y]]) + done * np.array([[self.dx, self.dy]])

    def visible(self, times_s: np.ndarray) -> np.ndarray:
        """Whether the object is in view at each time, shape (F,), bool."""
        return (times_s >= self.appears_s) & (times_s < self.leaves_s)


@dataclass(frozen=True)
class Scene:
    """What is seen during `duration_s` seconds. `objects` stand in the order in which they appear."""

    seed: int
    duration_s: int
    objects: tuple[MovingObject, ...]
    background: tuple[tuple[float, float, float], ...]
    gain: float
    softness: float
    texture: float
    noise: float

    @property
    def times_s(self) -> np.ndarray:
        """Times of the frames that the model sees, shape (F,): one a second."""
        return np.arange(self.duration_s, dtype=np.float64)


@dataclass(frozen=True)
class Question:
    """A question, its one right answer, and what it asks for."""

    kind: str
    text: str
    answer: str


def sample_scene(seed: int, *, duration_s: int = 8, n_objects: int | None = None) -> Scene:
    """Draw a scene from its seed.

    The number of objects is drawn before overlapping layouts are rejected: otherwise scenes of one object, which are
    never rejected, would be most of the data.
    """
    if duration_s < 8:
        raise ValueError(
            f"a scene lasts at least 8 seconds, not {duration_s}: its objects need time to appear and move"
        )
    rng = np.random.default_rng(seed)
    count = n_objects if n_objects is not None else int(rng.integers(1, 4))
    colours = rng.permutation(list(COLOURS))[:count]
    shapes = rng.permutation(SHAPES)[:count] if rng.random() < 0.7 else rng.choice(SHAPES, count)
    objects = None
    while objects is None:
        objects = _sample_objects(rng, [str(c) for c in colours], [str(s) for s in shapes], duration_s)
    base = rng.uniform(25, 125)
    corners = tuple(
        tuple(float(v) for v in np.clip(base + rng.uniform(-25, 25) + rng.uniform(-14, 14, 3), 5, 150))
        for _ in range(4)
    )
    return Scene(
        seed=seed,
        duration_s=duration_s,
        objects=objects,
        background=corners,  # type: ignore[arg-type]
        gain=float(rng.uniform(0.85, 1.12)),
        softness=float(rng.uniform(0.8, 2.2) / _SIDE_PX),
        texture=float(rng.uniform(0, 7)),
        noise=float(rng.uniform(0, 6)),
    )


def _sample_objects(
    rng: np.random.Generator, colours: list[str], shapes: list[str], duration_s: int
) -> tuple[MovingObject, ...] | None:
    """Place one object after the other so that no two touch at any time; None if there is no room."""
    appearances = _sample_appearances(rng, len(colours), duration_s)
    grid_s = np.arange(0, duration_s, 0.5)
    placed: list[tuple[MovingObject, np.ndarray, np.ndarray]] = []
    for colour, shape, appears_s in zip(colours, shapes, appearances, strict=True):
        for _ in range(12):
            new = _sample_object(rng, colour, shape, appears_s, duration_s)
            path, seen = new.positions(grid_s), new.visible(grid_s)
            if all(_apart(new, path, seen, other) for other in placed):
                placed.append((new, path, seen))
                break
        else:
            return None
    return tuple(item[0] for item in placed)


def _sample_appearances(rng: np.random.Generator, count: int, duration_s: int) -> list[float]:
    """Increasing times of appearance, spread over the whole clip, each early enough for its motion to be seen."""
    latest_s = duration_s - 1 - _SHORTEST_MOVE_S - 0.1
    if rng.random() < 0.6:
        # The first object is often there from the beginning.
        times = [0.0, *rng.uniform(_APPEARANCE_GAP_S, latest_s, count - 1)]
    else:
        times = list(rng.uniform(0, latest_s, count))
    times.sort()
    if all(later - earlier >= _APPEARANCE_GAP_S for earlier, later in pairwise(times)):
        return [float(t) for t in times]
    return _sample_appearances(rng, count, duration_s)


def _sample_object(
    rng: np.random.Generator, colour: str, shape: str, appears_s: float, duration_s: int
) -> MovingObject:
    radius = rng.uniform(*_RADIUS_PX) / _SIDE_PX
    last_s = duration_s - 1
    moves_s = appears_s + rng.uniform(0, min(2.0, last_s - appears_s - _SHORTEST_MOVE_S))
    rests_s = moves_s + rng.uniform(_SHORTEST_MOVE_S, min(_LONGEST_MOVE_S, last_s - moves_s))
    leaves_s = math.inf
    if rests_s + 2 < last_s and rng.random() < 0.4:
        leaves_s = float(rng.uniform(rests_s + 1, last_s))
    direction = str(rng.choice(list(DIRECTIONS)))
    length = rng.uniform(*_DISPLACEMENT_PX) / _SIDE_PX
    angle = rng.uniform(-_DRIFT_RADIANS, _DRIFT_RADIANS)
    ux, uy = DIRECTIONS[direction]
    dx = length * (ux * math.cos(angle) - uy * math.sin(angle))
    dy = length * (ux * math.sin(angle) + uy * math.cos(angle))
    low, high = radius, 1 - radius
    x = rng.uniform(max(low, low - dx), min(high, high - dx))
    y = rng.uniform(max(low, low - dy), min(high, high - dy))
    return MovingObject(
        colour,
        shape,
        direction,
        radius,
        float(x),
        float(y),
        dx,
        dy,
        appears_s,
        float(moves_s),
        float(rests_s),
        leaves_s,
    )


def _apart(
    new: MovingObject, path: np.ndarray, seen: np.ndarray, other: tuple[MovingObject, np.ndarray, np.ndarray]
) -> bool:
    old, old_path, old_seen = other
    together = seen & old_seen
    # Corners of squares and triangles reach past the radius.
    reach = 1.15 * (new.radius + old.radius) + _MARGIN_PX / _SIDE_PX
    gaps = np.hypot(*(path - old_path).T)
    return not bool(np.any(together & (gaps < reach)))


# Several ways to ask the same: the model must answer the question, not recognise a string.
PHRASINGS: dict[str, tuple[str, ...]] = {
    "colour": ("What colour is the {shape}?", "What color is the {shape}?", "What is the colour of the {shape}?"),
    "shape": ("What shape is the {colour} object?", "What is the shape of the {colour} object?"),
    "count": ("How many objects are there?", "How many objects appear?"),
    "first": ("Which object appeared first?", "Which object came first?"),
    "last": ("Which object appeared last?", "Which object came last?"),
    "direction": (
        "Which way does the {colour} object move?",
        "Which way does the {colour} {shape} move?",
        "In which direction does the {colour} {shape} move?",
    ),
    "caption": ("Describe the video.", "What happens in the video?"),
}
KINDS: tuple[str, ...] = ("colour", "shape", "count", "order", "direction", "caption")


def caption(scene: Scene) -> str:
    """One sentence per object, in order of appearance."""
    return " ".join(f"A {o.colour} {o.shape} moves {o.direction}." for o in scene.objects)


def questions(scene: Scene, seed: int | None = None) -> list[Question]:
    """Every question that has one right answer, each in one phrasing drawn from the seed (the scene's own if None).

    A colour is asked for only by a shape that no other object has; order only where there are at least two objects.
    """
    rng = np.random.default_rng((scene.seed if seed is None else seed, 1))

    def phrase(key: str, **words: str) -> str:
        return str(rng.choice(PHRASINGS[key])).format(**words)

    asked: list[Question] = []
    shapes = [o.shape for o in scene.objects]
    for item in scene.objects:
        words = {"colour": item.colour, "shape": item.shape}
        if shapes.count(item.shape) == 1:
            asked.append(Question("colour", phrase("colour", **words), item.colour))
        asked.append(Question("shape", phrase("shape", **words), item.shape))
        asked.append(Question("direction", phrase("direction", **words), item.direction))
    asked.append(Question("count", phrase("count"), NUMBERS[len(scene.objects)]))
    if len(scene.objects) > 1:
        for key, item in (("first", scene.objects[0]), ("last", scene.objects[-1])):
            asked.append(Question("order", phrase(key), f"{item.colour} {item.shape}"))
    asked.append(Question("caption", phrase("caption"), caption(scene)))
    return asked
