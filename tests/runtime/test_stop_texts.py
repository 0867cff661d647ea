from __future__ import annotations

import random

import pytest

from aurora_export.errors import UsageError
from aurora_export.runtime.stop_texts import StopTexts


def shown(pieces, stops):
    """All that reaches the output, and whether it was stopped."""
    filtered, text = StopTexts(stops), ""
    for piece in pieces:
        part, stopped = filtered.push(piece)
        text += part
        if stopped:
            return text, True
    return text + filtered.flush(), False


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        (["red", " ball"], [], ("red ball", False)),
        (["red.", " It"], ["."], ("red", True)),
        (["red\n", "\nUser", ": and"], ["\n\nUser:"], ("red", True)),
        (["red\n", "\nUse", "ful"], ["\n\nUser:"], ("red\n\nUseful", False)),
        (["aa", "ab"], ["aab"], ("a", True)),
        (["abc"], ["c", "bc"], ("a", True)),
        (["x", "aXbXc"], ["XbXd", "Xc"], ("xaXb", True)),
        (["red\n"], ["\n\n"], ("red\n", False)),
        (["."], ["."], ("", True)),
    ],
)
def test_texts(pieces, stops, expected):
    assert shown(pieces, stops) == expected


def test_any_cut_gives_the_same():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices("ab", k=12))
        stops = ["".join(rng.choices("ab", k=rng.randint(1, 5))) for _ in range(rng.randint(1, 3))]
        cuts = sorted(rng.sample(range(13), k=4))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, 12], strict=True)]
        first = min((text.find(stop) for stop in stops if stop in text), default=-1)
        # With several stop texts, the one that is complete first wins; whole text in one piece is one cut among many.
        got, stopped = shown(pieces, stops)
        assert stopped == (first >= 0)
        assert not any(stop in got for stop in stops)
        assert text.startswith(got)
        if len(stops) == 1:
            assert got == (text[:first] if first >= 0 else text)


def test_only_what_could_become_a_stop_text_is_held_back():
    stops = StopTexts(["\n\nUser:"])
    assert stops.push("one\n") == ("one", False)
    assert stops.push("two") == ("\ntwo", False)


def test_an_empty_stop_text_is_refused():
    with pytest.raises(UsageError, match="a stop text is empty"):
        StopTexts([""])
