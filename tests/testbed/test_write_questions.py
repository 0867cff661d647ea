from __future__ import annotations

import numpy as np

from aurora_export.calibration.questions import read_questions
from aurora_export.runtime.video import open_source
from evaluate import Plan, plan_scenes, scene_of, show
from write_questions import write_questions


def test_the_model_sees_what_evaluate_shows(tmp_path):
    """To the bit, through the product's own reader of videos."""
    names = list(write_questions(tmp_path, n_questions=12, noise=60))
    scenes = plan_scenes(12)
    assert len(names) == len(scenes)
    plan = Plan("", ("generic",), encoded=False, noise=60)
    for name, (seed, duration_s) in zip(names, scenes, strict=True):
        drawn = np.stack(list(show(scene_of(plan, seed, duration_s), encoded=False)))
        with open_source(tmp_path / name) as frames:
            np.testing.assert_array_equal(np.stack([frame.pixels for frame in frames]), drawn)


def test_the_list_is_one_of_questions(tmp_path):
    list(write_questions(tmp_path, n_questions=12, seed=1))
    read = read_questions(tmp_path / "questions.jsonl")
    assert len(read.questions) >= 12
    assert read.has_answers
    kinds = {"colour", "shape", "count", "order", "direction"}
    assert {question.kind for question in read.questions} == kinds
