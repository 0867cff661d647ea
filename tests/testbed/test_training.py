"""Thirty steps of each stage, and what comes out is a checkpoint that the product reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aurora_export.model.checkpoint import load_checkpoint
from aurora_export.model.checkpoint_folder import CheckpointSource
from export_checkpoint import export_checkpoint
from features import FeatureSet, observe
from network import make_config
from scenes import COLOURS, DIRECTIONS, HELD_OUT_SEEDS, SHAPES, TRAINING_SEEDS, sample_scene
from student import Student, batch_loss
from train_language import Course, draw_batch, learning_rate, load_or_make, train_language
from train_vision import train_vision


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_vision._BATCH", 8)
        train_vision(path / "vision.pt", n_steps=30, n_scenes=24)
    return path


@pytest.fixture(scope="module")
def sets(work: Path) -> list[FeatureSet]:
    return load_or_make(work, work / "vision.pt", ((8, 24, (0.1, 0.2)),), TRAINING_SEEDS, n_processes=0)


@pytest.fixture(scope="module")
def trained(work: Path, sets: list[FeatureSet]) -> Path:
    held_out = load_or_make(work, work / "vision.pt", ((8, 4, (0.1,)), (8, 3, (0.1,))), HELD_OUT_SEEDS, n_processes=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_language._TOKENS_PER_BATCH", 300)
        train_language(Course(work / "language.pt", sets, ((0.7, 0.3), (0.3, 0.7)), held_out, n_steps=30))
    return work / "language.pt"


def test_thirty_steps_lower_the_loss(work: Path, trained: Path, sets: list[FeatureSet]) -> None:
    torch.manual_seed(1)
    before = Student()
    after = Student()
    saved = torch.load(trained, weights_only=True)
    assert saved["step"] == 30
    after.load_state_dict(saved["student"])
    batch = draw_batch(sets, (1, 0), np.random.default_rng(99))
    with torch.no_grad():
        assert sum(batch_loss(after, batch)) < 0.8 * sum(batch_loss(before, batch))


def test_kept_tokens_follow_the_ratio(sets: list[FeatureSet]) -> None:
    assert [data.tokens.shape for data in sets] == [(24, 8, 9, 64), (24, 8, 15, 64)]


def test_export_is_read_by_the_product(work: Path, trained: Path, tmp_path: Path) -> None:
    tower = torch.load(work / "vision.pt", weights_only=True)["tower"]
    weights = torch.load(trained, weights_only=True)["student"]
    n_bytes = export_checkpoint(tmp_path, tower, weights)
    assert n_bytes < 8e6
    loaded = load_checkpoint(CheckpointSource(path=tmp_path))
    assert loaded.config == make_config()
    torch.testing.assert_close(loaded.model.language.head.weight, weights["language.head.weight"], rtol=0, atol=0)
    torch.testing.assert_close(
        loaded.model.vision.encoder.layers[5].mlp.fc2.bias, tower["encoder.layers.5.mlp.fc2.bias"], rtol=0, atol=0
    )


def test_the_observer_is_told_what_has_been_seen_so_far() -> None:
    scene = sample_scene(7, duration_s=16, n_objects=3)
    seen = observe(scene, scene.times_s)
    assert seen["count"].tolist() == [sum(o.appears_s <= t for o in scene.objects) for t in scene.times_s]
    for item in scene.objects:
        colour = list(COLOURS).index(item.colour)
        before = scene.times_s < item.appears_s
        assert (seen["motion"][before, colour] == 0).all()
        assert seen["motion"][-1, colour] == 2 + list(DIRECTIONS).index(item.direction)
        assert seen["shape"][-1, colour] == 1 + SHAPES.index(item.shape)
        assert (seen["place"][~item.visible(scene.times_s), colour] == -1).all()
    assert seen["first"][-1] == 1 + list(COLOURS).index(scene.objects[0].colour)
    assert seen["last"][-1] == 1 + list(COLOURS).index(scene.objects[-1].colour)


def test_learning_rate_rises_holds_and_falls() -> None:
    rates = [learning_rate(step, 1000) for step in range(1000)]
    assert rates[0] < rates[50] < rates[200] == rates[500] > rates[900] > rates[999] > 0
