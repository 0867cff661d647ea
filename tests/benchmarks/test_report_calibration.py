"""What the tables of docs/CALIBRATION.md call a calibration: by what was recorded, whoever recorded it."""

from __future__ import annotations

import pytest
from report_calibration import is_beyond, method_text, precision_text
from result_tables import read_result

from aurora_export.calibration.calibrate import Method
from aurora_export.export.comparison import LIMITS


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        (str(Method()), "mse, smoothing auto (default)"),
        ("mse, smoothing auto, moments of language.* vision.*", "mse, smoothing auto (default)"),
        ("mse", "mse, no smoothing"),
        ("mse (default)", "mse, no smoothing"),
        ("max, moments of *", "max, no smoothing"),
        ("percentile 99.9, smoothing 0.5", "percentile 99.9, smoothing 0.5"),
        ("max, smoothing auto", "max, smoothing auto"),
    ],
)
def test_a_method_says_whether_it_smooths_and_which_is_the_default(recorded, shown):
    assert method_text(recorded) == shown


def test_a_bundle_says_how_it_was_calibrated():
    assert precision_text({"precision": "fp16", "method": None}) == "fp16"
    row = {"precision": "fp8-qdq", "method": "mse, moments of *", "error_feedback": True}
    assert precision_text(row) == "fp8-qdq, mse, no smoothing, error feedback"
    weight_only = {"precision": "int4", "method": "mse, smoothing auto, moments of *", "error_feedback": True}
    assert precision_text(weight_only) == "int4, error feedback", "ranges have no part in weight-only integers"


def test_limits_are_those_of_a_build_today_and_what_the_document_concludes_is_so():
    result = read_result("quantization_limits")
    assert result["limits"] == LIMITS["int8-qdq"], "measure again, or keep the limits"
    fails = {row["factor"]: is_beyond(row["errors"], result["limits"]) for row in result["rows"]}
    drops = {row["factor"]: row["drop"] for row in result["rows"]}
    assert not fails[1.0] and max(drops[f] for f in fails if not fails[f]) < min(drops[f] for f in fails if fails[f])
    matched = {row["factor"]: row["errors"]["visual_tokens.matched"] for row in result["rows"]}
    assert matched[0.7] > matched[0.5] and drops[0.7] < drops[0.5] - 2
