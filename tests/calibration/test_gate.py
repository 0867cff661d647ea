from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from aurora_export.calibration.gate import Loss, Verdict, loss_of, require
from aurora_export.calibration.measures import Outcome
from aurora_export.calibration.questions import Question
from aurora_export.errors import AccuracyError


def outcomes(answers, *, per_video=1, expected="yes", n_agreed=3):
    return [
        Outcome(Question(f"{i // per_video}.mp4", f"{i}?", expected), answer, 4, n_agreed, 0.5)
        for i, answer in enumerate(answers)
    ]


def test_the_drop_is_that_of_paired_answers():
    base = outcomes(["yes"] * 90 + ["no"] * 10)
    mine = outcomes(["yes"] * 85 + ["no"] * 12 + ["yes"] * 3)
    loss = loss_of(mine, base)
    assert (loss.n_lost, loss.n_gained, loss.n_changed) == (5, 3, 8)
    assert loss.drop == pytest.approx(2)
    differences = np.array([m.is_right - b.is_right for m, b in zip(mine, base, strict=True)], float)
    assert loss.drop_error == pytest.approx(100 * differences.std(ddof=1) / math.sqrt(100))
    assert loss.agreement == pytest.approx(0.75)
    assert loss.kl == pytest.approx(0.125)


def test_questions_about_one_video_count_as_one():
    base, answers = ["yes"] * 40, ["no"] * 4 + ["yes"] * 36
    alone = loss_of(outcomes(answers), outcomes(base))
    together = loss_of(outcomes(answers, per_video=4), outcomes(base, per_video=4))
    assert together.drop == alone.drop
    assert together.drop_error > 1.8 * alone.drop_error


def test_without_answers_tokens_count():
    loss = loss_of(outcomes(["a"] * 10, expected=None), outcomes(["a"] * 10, expected=None, n_agreed=4))
    assert loss.metric == "agreement"
    assert loss.drop == pytest.approx(25)
    assert loss.n == 40


def test_other_questions_are_no_pairs():
    with pytest.raises(ValueError, match="different questions"):
        loss_of(outcomes(["a"]), outcomes(["a", "b"])[1:])


def test_one_video_has_no_error():
    loss = loss_of(outcomes(["no", "yes"], per_video=2), outcomes(["yes", "yes"], per_video=2))
    verdict = Verdict(loss, 0.5)
    assert math.isinf(loss.drop_error)
    assert not verdict.is_decided
    assert "cannot decide" in verdict.text


BASE = Loss(1000, 200, 4000, 10, 0.99, 0.001, 0.01, 0.001, 0.9, 0.9, 0.001, 0, 0)


@pytest.mark.parametrize(
    ("accuracy", "error", "n", "holds", "decided"),
    [
        (0.9, 0.0, 1000, True, True),
        (0.9, 0.0, 100, True, False),  # none of 100 differs: up to three may
        (0.897, 0.0005, 1000, True, False),
        (0.88, 0.002, 1000, False, True),
        (0.892, 0.006, 1000, False, False),
    ],
)
def test_a_verdict_says_whether_the_sample_can_decide(accuracy, error, n, holds, decided):
    verdict = Verdict(replace(BASE, accuracy=accuracy, accuracy_error=error, n_questions=n), 0.5)
    assert (verdict.holds, verdict.is_decided) == (holds, decided)
    assert ("cannot decide" in verdict.text) == (not decided)
    assert ("over the limit" in verdict.text) == (not holds)
    low, high = verdict.bounds
    assert low < verdict.loss.drop < high


def test_a_drop_of_just_the_limit_holds_whatever_floats_leave_of_the_subtraction():
    loss = replace(BASE, accuracy=2654 / 3000, yardstick_accuracy=2669 / 3000, n_questions=3000)
    assert 100 * (loss.yardstick_accuracy - loss.accuracy) > 0.5
    assert loss.drop == 0.5
    assert Verdict(loss, 0.5).holds


def test_the_number_that_would_decide_does():
    verdict = Verdict(replace(BASE, accuracy=0.897, accuracy_error=0.005), 0.5)
    n = verdict.n_needed
    assert not verdict.is_decided
    enough = replace(verdict.loss, n_questions=n, accuracy_error=0.005 * math.sqrt(1000 / n))
    assert Verdict(enough, 0.5).is_decided
    assert Verdict(replace(BASE, accuracy=0.9 - 0.005), 0.5 + 1e-14).text


def test_a_gate_that_fails_ends_with_its_exit_code():
    require(Verdict(BASE, 0.5), hint="")
    with pytest.raises(AccuracyError, match=r"drops by 2\.00") as caught:
        require(Verdict(replace(BASE, accuracy=0.88), 0.5), hint="keep more")
    assert caught.value.exit_code == 5
    assert caught.value.hint == "keep more"
