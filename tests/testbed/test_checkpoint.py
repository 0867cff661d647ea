"""The shipped weights, in torch: they answer, and the training's own measure is that of greedy answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aurora_export.model.aurora import AuroraModel
from aurora_export.model.checkpoint import load_checkpoint
from aurora_export.model.checkpoint_folder import CheckpointSource
from aurora_export.plugins.wkv.reference import wkv6_chunked
from aurora_export.tokenizer import END_OF_TEXT
from dialogue import answer_ids, choose_questions, prefix_ids, question_ids
from features import FeatureSet, Observations
from render import draw_frames
from scenes import sample_scene
from student import Student, answer_accuracy

CHECKPOINT = Path(__file__).resolve().parents[2] / "testbed" / "checkpoint"
N_SCENES = 12
QUESTIONS_PER_SCENE = 6
MEASURE_SEED = 7  # answer_accuracy draws its questions from it


@pytest.fixture(scope="module")
def model() -> AuroraModel:
    return load_checkpoint(CheckpointSource(path=CHECKPOINT)).model


@pytest.fixture(scope="module")
def watched(model: AuroraModel) -> FeatureSet:
    scenes = [sample_scene(seed) for seed in range(50_000, 50_000 + N_SCENES)]
    frames = torch.from_numpy(np.concatenate([draw_frames(scene, scene.times_s) for scene in scenes]))
    encoded = model.encode_frames(frames)  # projected already; the student below therefore projects nothing
    tokens = encoded.tokens.unflatten(0, (N_SCENES, -1))
    nothing = torch.zeros(0)
    return FeatureSet(scenes, tokens, nothing, Observations(nothing, nothing, nothing, nothing, nothing, nothing))


def greedy_accuracy(model: AuroraModel, watched: FeatureSet, *, duplicate: bool) -> float:
    """Word by word, each question from the start, by the reference's own `generate`."""
    right = []
    rng = np.random.default_rng(MEASURE_SEED)
    for scene, tokens in zip(watched.scenes, watched.tokens, strict=True):
        for question in choose_questions(scene, rng, QUESTIONS_PER_SCENE, captions=True):
            before = model.embed_ids(prefix_ids(question.text if duplicate else None))
            after = model.embed_ids(question_ids(question.text, is_first=True))
            prompt = torch.cat([before, tokens.flatten(0, 1)[None], after], dim=1)
            answer = (*model.generate(prompt, max_tokens=24), END_OF_TEXT)
            if question.kind != "caption":
                right.append(answer == answer_ids(question.answer))
    return float(np.mean(right))


@pytest.mark.parametrize("duplicate", [False, True], ids=["generic", "duplicate"])
def test_shipped_weights_answer_and_the_measure_of_training_is_greedy_accuracy(
    model: AuroraModel, watched: FeatureSet, duplicate: bool
) -> None:
    student = Student()
    student.projector = torch.nn.Identity()  # type: ignore[assignment]
    student.language.load_state_dict(model.language.state_dict())
    measured = answer_accuracy(student, watched, duplicate=duplicate, per_video=QUESTIONS_PER_SCENE)["all"]
    for block in model.language.blocks:
        block.att.wkv = wkv6_chunked
    assert measured == pytest.approx(greedy_accuracy(model, watched, duplicate=duplicate))
    assert measured >= 0.9


def test_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in CHECKPOINT.rglob("*.safetensors")) < 8e6
