from __future__ import annotations

import pytest

from aurora_export.calibration.drift import measure_drift
from aurora_export.calibration.questions import read_questions
from aurora_export.errors import UsageError
from aurora_export.runtime.opened_bundle import open_bundle
from handmade_bundle import write_bundle
from question_files import with_noise, write_questions

LENGTHS = (1, 16, 300, 1000)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    return open_bundle(write_bundle(tmp_path_factory.mktemp("drift") / "a.aurora"), threads=1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return list(read_questions(write_questions(tmp_path_factory.mktemp("videos"))).videos)


def test_a_bundle_does_not_drift_from_itself(opened, videos):
    shares = []
    rows = measure_drift(opened, opened, videos, lengths=LENGTHS, progress=shares.append)
    assert [row.n_tokens for row in rows] == list(LENGTHS)
    assert all(row.logits == row.kl == 0 and row.is_same_token and not any(row.states.values()) for row in rows)
    assert shares[-1] == 1


def test_an_error_of_the_state_shows_at_every_length(opened, videos):
    rows = measure_drift(with_noise(opened, 0.01), opened, videos, lengths=LENGTHS)
    for row in rows:
        assert row.states["wkv"] == pytest.approx(0.01, rel=0.01)
        assert 0 < row.logits < 0.1
        assert row.kl > 0


def test_no_videos(opened):
    with pytest.raises(UsageError, match="there are none"):
        measure_drift(opened, opened, [])
