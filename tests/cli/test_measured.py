from __future__ import annotations

import pytest

from aurora_export.cli.measured import lines_of
from aurora_export.manifest import Measured, Verification


@pytest.mark.parametrize(
    ("error", "limit", "metric", "line"),
    [
        (0.1, 0.2, "max abs error", "ok   x: 0.1, limit 0.2 (max abs error)"),
        (0.3, 0.2, "max abs error", "OVER x: 0.3, limit 0.2 (max abs error)"),
        (2.0, 1.0, "max abs error", "OVER x: 2, limit 1 (max abs error)"),
        (0.3, 0.2, "share of tokens", "OVER x: 0.3, limit 0.2 (share of tokens)"),
        (1.0, 1.0, "share of tokens", "     x: 1, no limit (share of tokens)"),
    ],
)
def test_a_line_says_whether_there_is_a_limit_and_whether_it_holds(error, limit, metric, line):
    measured = Measured(error=error, limit=limit, metric=metric)
    lines = list(lines_of(Verification(outputs={"x": measured}, n_frames=1, n_tokens=2, merge_flips=3)))
    assert lines[0] == line
    assert len(lines) == 2
