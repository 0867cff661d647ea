from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aurora_export.calibration import measures
from aurora_export.calibration.gate import loss_of
from aurora_export.calibration.measures import (
    RememberingVision,
    Yardstick,
    kl_divergence,
    log_softmax,
    normalised,
    remembering,
    require_same_model,
)
from aurora_export.calibration.questions import read_questions
from aurora_export.errors import AccuracyError, IncompatibleError, UsageError
from aurora_export.runtime.opened_bundle import open_bundle
from aurora_export.runtime.session import Aurora
from handmade_bundle import handmade_config, write_bundle
from question_files import with_noise, write_questions


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("measures") / "a.aurora"), threads=1)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    return read_questions(write_questions(tmp_path_factory.mktemp("questions")))


@pytest.fixture(scope="module")
def yardstick(opened, questions):
    return Yardstick.of(opened, questions.questions, max_tokens=6)


def test_scoring_gives_the_logits_that_an_answer_was_made_of(opened, questions):
    session = Aurora(opened)
    session.watch(questions.questions[0].video)
    ids = list(session.fork().generate_ids("What?", max_tokens=5))
    logits = session.fork().score_ids("What?", ids)
    assert logits.shape == (len(ids) + 1, opened.manifest.config.language.vocabulary_size)
    assert [int(row.argmax()) for row in logits[: len(ids)]] == ids
    with pytest.raises(UsageError, match="no token id"):
        session.score_ids("What?", [10**6])
    with pytest.raises(UsageError, match="nothing was watched"):
        Aurora(opened).score_ids("What?", ids)


def test_a_bundle_beside_itself_loses_nothing(opened, yardstick):
    loss = loss_of(yardstick.measure(opened), yardstick.outcomes)
    assert (loss.agreement, loss.drop, loss.n_changed) == (1, 0, 0)
    assert loss.kl < 1e-6


def test_answers_are_those_of_the_product(opened, yardstick):
    for outcome in yardstick.outcomes[:3]:
        session = Aurora(opened)
        session.watch(outcome.question.video)
        assert outcome.answer == "".join(session.ask(outcome.question.prompt, max_tokens=6)).strip()


def test_more_noise_more_loss(opened, yardstick):
    losses = [loss_of(yardstick.measure(with_noise(opened, noise)), yardstick.outcomes) for noise in (1e-4, 0.02, 0.5)]
    assert losses[0].kl < losses[1].kl < losses[2].kl
    assert losses[2].agreement < 1
    assert losses[2].n_changed > 0


def test_a_changed_choice_is_answered_anew(opened, yardstick):
    noisy = with_noise(opened, 0.5)
    for outcome, base in zip(yardstick.measure(noisy), yardstick.outcomes, strict=True):
        assert (outcome.answer == base.answer) or outcome.n_agreed < outcome.n_places


def test_logits_that_are_not_finite_are_refused(opened, yardstick):
    with pytest.raises(AccuracyError, match="not finite"):
        yardstick.measure(with_noise(opened, float("nan")))


def test_distributions_that_do_not_fit_are_left_out(opened, questions, monkeypatch):
    monkeypatch.setattr(measures, "MAX_TRACE_BYTES", 10_000)
    small = Yardstick.of(opened, questions.questions, max_tokens=6)
    kept = [trace.log_probabilities is not None for trace in small.traces]
    assert any(kept)
    assert not all(kept)
    loss = loss_of(small.measure(with_noise(opened, 0.1)), small.outcomes)
    assert 0 < loss.kl < 10
    assert loss.n_tokens == sum(len(trace.chosen) for trace in small.traces)


def test_right_answers_are_compared_without_case_and_space():
    assert normalised("  Red\n Square ") == "red square"


def test_kl_of_known_distributions():
    p, q = np.array([0.5, 0.5]), np.array([0.9, 0.1])
    expected = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    assert kl_divergence(log_softmax(np.log(p)), log_softmax(np.log(q) + 7)) == pytest.approx(expected)
    assert log_softmax(np.array([1000.0, 0.0]))[1] == pytest.approx(-1000)


def test_remembered_frames_are_not_run_again(opened):
    n_runs = 0

    class Counting:
        spec, backend = opened.vision.spec, opened.vision.backend

        def run(self, inputs):
            nonlocal n_runs
            n_runs += 1
            return opened.vision.run(inputs)

    vision = RememberingVision(Counting())
    frames = np.zeros((1, 16, 16, 3), np.uint8)
    first = vision.run({"frames": frames})
    np.testing.assert_array_equal(vision.run({"frames": frames.copy()})["visual_tokens"], first["visual_tokens"])
    assert n_runs == 1
    vision.run({"frames": frames + 1})
    assert n_runs == 2
    assert remembering(opened).language is opened.language


def test_other_models_are_refused(opened, tmp_path):
    other = open_bundle(write_bundle(tmp_path / "b.aurora", handmade_config(vision={"mlp_width": 20})), threads=1)
    with pytest.raises(IncompatibleError, match="vision differ"):
        require_same_model(opened, other)
    require_same_model(opened, replace(opened, path=tmp_path))
