from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from scenes import (
    COLOURS,
    HELD_OUT_SEEDS,
    KINDS,
    NUMBERS,
    TRAINING_SEEDS,
    Scene,
    caption,
    questions,
    sample_scene,
)

SCENES = [sample_scene(seed, duration_s=duration_s) for duration_s in (8, 16, 64) for seed in range(60)]


def test_scene_follows_from_its_seed() -> None:
    assert sample_scene(5, duration_s=16) == sample_scene(5, duration_s=16)
    assert sample_scene(5, duration_s=16) != sample_scene(6, duration_s=16)


def test_training_and_held_out_seeds_are_disjoint() -> None:
    assert not set(HELD_OUT_SEEDS) & {TRAINING_SEEDS.start, TRAINING_SEEDS.stop - 1}
    assert HELD_OUT_SEEDS.stop <= TRAINING_SEEDS.start


def test_too_short_a_scene_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 seconds, not 7"):
        sample_scene(0, duration_s=7)


def test_one_two_and_three_objects_are_about_equally_likely() -> None:
    counts = np.bincount([len(sample_scene(seed).objects) for seed in range(600)], minlength=4)[1:]
    assert counts.min() > 150, counts


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: f"{s.duration_s}s-{s.seed}")
def test_objects_can_be_told_apart_and_their_events_seen(scene: Scene) -> None:
    times_s = np.arange(0, scene.duration_s, 0.1)
    assert len({item.colour for item in scene.objects}) == len(scene.objects)
    appearances = [item.appears_s for item in scene.objects]
    # At one frame a second, two objects never appear in the same frame.
    assert all(later - earlier > 1 for earlier, later in pairwise(appearances))
    for item in scene.objects:
        assert item.appears_s <= item.moves_s < item.rests_s <= scene.duration_s - 1
        assert item.leaves_s > item.rests_s
        assert np.hypot(item.dx, item.dy) * 64 >= 20
        inside = item.positions(times_s)
        assert inside.min() >= item.radius - 1e-9
        assert inside.max() <= 1 - item.radius + 1e-9
    for i, one in enumerate(scene.objects):
        for other in scene.objects[:i]:
            together = one.visible(times_s) & other.visible(times_s)
            gaps = np.hypot(*(one.positions(times_s) - other.positions(times_s)).T)[together]
            assert gaps.size == 0 or gaps.min() > one.radius + other.radius


@pytest.mark.parametrize("scene", SCENES, ids=lambda s: f"{s.duration_s}s-{s.seed}")
def test_answers_follow_from_the_scene(scene: Scene) -> None:
    by_colour = {item.colour: item for item in scene.objects}
    shapes = [item.shape for item in scene.objects]
    asked = questions(scene)
    assert {q.kind for q in asked} <= set(KINDS)
    for question in asked:
        named = [by_colour[word] for word in question.text.rstrip("?.").split() if word in COLOURS]
        if question.kind == "colour":
            (shape,) = [word.rstrip("?") for word in question.text.split() if word.rstrip("?") in shapes]
            assert shapes.count(shape) == 1
            assert by_colour[question.answer].shape == shape
        elif question.kind == "shape":
            assert question.answer == named[0].shape
        elif question.kind == "direction":
            dx, dy = named[0].dx, named[0].dy
            seen = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")
            assert question.answer == seen
        elif question.kind == "count":
            assert NUMBERS.index(question.answer) == len(scene.objects)
        elif question.kind == "order":
            which = min if "first" in question.text else max
            item = which(scene.objects, key=lambda o: o.appears_s)
            assert question.answer == f"{item.colour} {item.shape}"
            assert len(scene.objects) > 1
        else:
            assert question.answer == caption(scene)


def test_phrasing_follows_from_the_seed_and_varies() -> None:
    scene = sample_scene(3)
    assert questions(scene, 1) == questions(scene, 1)
    assert len({tuple(questions(scene, seed)) for seed in range(8)}) > 1
