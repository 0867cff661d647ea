"""A benchmark that goes on: only with what was measured of the same."""

from __future__ import annotations

from resumed import Rows


def test_rows_of_the_same_circumstances_are_known_again(tmp_path):
    path, identity = tmp_path / "rows.jsonl", {"commit": "a", "questions": "b"}
    first = Rows(path, identity)
    assert "x" not in first
    first.add("x", {"drop": 1.5})
    first.add("y", {"drop": 2})
    again = Rows(path, identity)
    assert again["x"] == {"drop": 1.5} and "y" in again
    for changed in ({**identity, "commit": "a+changes"}, {**identity, "questions": "c"}):
        assert "x" not in Rows(path, changed)
    assert "x" not in Rows(None, identity)
