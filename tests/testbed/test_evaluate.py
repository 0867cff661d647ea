from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import evaluate
from ablation import RATIOS, Setting, difference, markdown
from evaluate import Outcome, accuracy, choose_questions, report
from scenes import HELD_OUT_SEEDS, KINDS, sample_scene


class KnowingAurora:
    """Stands in for a session: knows the scene, and answers colours wrongly."""

    def __init__(self) -> None:
        self.watched: list[str | None] = []

    def reset(self) -> None:
        self.phase = "empty"

    def watch(self, frames: list[object], *, prompt: str | None = None) -> None:
        assert len(frames) in (8, 16)
        self.watched.append(prompt)

    def fork(self) -> KnowingAurora:
        return self

    def ask(self, question: str, *, max_tokens: int) -> Iterator[str]:
        assert max_tokens >= 20
        yield " gr"
        yield "een" if question.startswith("What") else "ay"


def outcome(seed: int, kind: str, right: bool, form: str = "generic") -> Outcome:
    return Outcome(seed, 8, form, kind, "?", "yes", "yes" if right else "no")


def test_each_scene_is_asked_one_question_of_every_kind() -> None:
    for seed in range(20):
        kinds = [question.kind for question in choose_questions(sample_scene(seed))]
        assert kinds == [kind for kind in KINDS if kind in kinds]
        assert {"shape", "count", "direction", "caption"} <= set(kinds)


def test_duplicate_form_watches_with_the_question_and_generic_once_without() -> None:
    aurora = KnowingAurora()
    scene = sample_scene(3, n_objects=2)
    asked = choose_questions(scene)
    frames = list(evaluate.show(scene, encoded=False))
    answers = list(evaluate.answers(aurora, frames, asked, "generic"))
    assert aurora.watched == [None]
    assert [question for question, _ in answers] == asked
    assert {answer for _, answer in answers} <= {" green", " gray"}
    aurora.watched.clear()
    list(evaluate.answers(aurora, frames, asked, "duplicate"))
    assert aurora.watched == [question.text for question in asked]


def test_encoded_video_has_one_frame_a_second_of_256_pixels() -> None:
    frames = list(evaluate.show(sample_scene(1), encoded=True))
    assert [frame.shape for frame in frames] == [(256, 256, 3)] * 8


def test_json_has_accuracy_and_error_of_all_and_of_each_kind() -> None:
    outcomes = [outcome(seed, kind, right=(seed + i) % 4 != 0) for seed in range(8) for i, kind in enumerate(KINDS)]
    result = json.loads(json.dumps(report(outcomes)))
    assert set(result["accuracy"]) == {"all", *KINDS} == set(result["standard_error"])
    assert result["accuracy"]["all"] == pytest.approx(0.75)
    assert result["questions"] == 40
    assert result["n"]["caption"] == 8
    assert set(result["accuracy_by_prompt_form"]) == {"generic"}
    assert set(result["accuracy_by_frames"]) == {"8"}


def test_captions_are_not_part_of_all() -> None:
    share, _, number = accuracy([outcome(0, "colour", right=True), outcome(0, "caption", right=False)])
    assert share == {"all": 1.0, "colour": 1.0, "caption": 0.0}
    assert number["all"] == 1


def test_standard_error_is_that_of_clusters() -> None:
    # Two questions about each of 100 scenes, always both right or both wrong: no better than 100 questions.
    outcomes = [outcome(seed, kind, right=seed % 2 == 0) for seed in range(100) for kind in ("colour", "shape")]
    share, error, _ = accuracy(outcomes)
    assert share["all"] == 0.5
    assert error["all"] == pytest.approx(0.05)
    assert error["colour"] == pytest.approx(0.05)


def test_runs_of_different_seeds_share_no_scene_and_are_held_out() -> None:
    last = evaluate.FIRST_SEED + 40 * evaluate.SEEDS_PER_RUN
    assert last <= 900_000  # where the sample clips begin
    assert last in HELD_OUT_SEEDS


def test_a_difference_is_paired_and_has_its_error() -> None:
    base = [outcome(seed, "colour", right=True) for seed in range(100)]
    worse = [outcome(seed, "colour", right=seed >= 10) for seed in range(100)]
    change, error = difference(worse, base)
    assert change == pytest.approx(-0.1)
    assert error == pytest.approx(0.03)
    with pytest.raises(ValueError, match="different questions"):
        difference([outcome(1, "colour", right=True)], [outcome(2, "colour", right=True)])


def test_table_says_what_has_no_measurable_effect() -> None:
    row = {"setting": "a", "tokens_per_frame": 9, "accuracy": {"all": 0.9}, "standard_error": {"all": 0.01}}
    rows = [
        row | {"difference": d, "difference_standard_error": 0.01, "measurable": m}
        for d, m in ((0, False), (-0.005, False), (-0.2, True))
    ]
    lines = markdown("order", rows).splitlines()
    assert "no measurable effect" in lines[3]
    assert lines[4].endswith("| -20.0 ± 1.0 | measurable |")
    assert {setting.name for setting in RATIOS} >= {"0.1", "1"}
    assert Setting("x").overrides == ()
