from __future__ import annotations

import pytest
from reading_curve import ReadingCurve, on_line


def exact(n: int, a: float = 0.02, b: float = 1e-6) -> float:
    """Seconds of n tokens if one costs a + b * depth."""
    return a * n + b * n * n / 2


def chunks(n_tokens: int, size: int = 512):
    return tuple((size, exact(at + size) - exact(at)) for at in range(0, n_tokens, size))


def rates(*depths: int):
    return tuple((float(depth), 0.02 + 1e-6 * depth) for depth in depths)


def test_what_was_read_is_the_sum_of_its_chunks():
    curve = ReadingCurve(chunks(2048), ())
    assert curve.n_read == 2048
    for n in (512, 1024, 2048):
        assert curve.kind(n) == "measured"
        assert curve.seconds(n) == pytest.approx(exact(n))
    assert curve.seconds(256) == pytest.approx(curve.seconds(512) / 2)


def test_between_measured_depths_it_is_integrated():
    curve = ReadingCurve(chunks(2048), rates(8192, 32768))
    for n in (4096, 8192, 20000, 32768):
        assert curve.kind(n) == "integrated"
        assert curve.seconds(n) == pytest.approx(exact(n), rel=1e-9)


def test_beyond_the_deepest_it_is_extrapolated_and_says_so():
    curve = ReadingCurve(chunks(2048), rates(8192, 32768))
    assert curve.kind(32769) == "extrapolated"
    assert curve.seconds(256000) == pytest.approx(exact(256000), rel=1e-9)
    without = ReadingCurve(chunks(2048), ())
    assert without.kind(4096) == "extrapolated"
    assert without.seconds(4096) == pytest.approx(exact(4096), rel=1e-9)


def test_one_rate_is_not_enough_to_go_on():
    with pytest.raises(ValueError, match="two depths"):
        ReadingCurve(chunks(512), ()).seconds(600)


def test_a_value_on_the_line_between_points_or_beyond():
    points = [(0, 1.0), (10, 3.0), (20, 3.0)]
    assert [on_line(points, at) for at in (0, 5, 10, 15, 40)] == [1.0, 2.0, 3.0, 3.0, 3.0]
    assert on_line(points[:2], 20) == 5.0
    assert on_line(points[:1], 20) == 1.0
