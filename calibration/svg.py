"""Two kinds of plot as SVG text, made without a library: lines on logarithmic axes, and bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#3b6fb6", "#c05a2b", "#3d8f5f", "#8659a8", "#777777")
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 150, 14, 42
BAR_PX, BAR_GAP_PX, BAR_LABEL_PX = 14, 6, 190


def line_plot(
    lines: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, floor: float = 1e-12
) -> str:
    """Lines through points (x, y) on logarithmic axes. What is below `floor`, zeros too, stands at it."""
    points = [(x, max(y, floor)) for line in lines.values() for x, y in line if math.isfinite(y)]
    if not points:
        return ""
    xs, ys = ([math.log10(point[axis]) for point in points] for axis in (0, 1))
    x_range, y_range = (min(xs), max(max(xs), min(xs) + 1e-9)), (math.floor(min(ys)), math.ceil(max(ys) + 1e-9))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_range[0]) / (x_range[1] - x_range[0])
        up = (math.log10(max(y, floor)) - y_range[0]) / (y_range[1] - y_range[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for power in range(y_range[0], y_range[1] + 1, max(1, (y_range[1] - y_range[0]) // 8)):
        _, y = place(10 ** x_range[0], 10.0**power)
        parts += [_line(LEFT, y, WIDTH - RIGHT, y, "#dddddd"), _text(LEFT - 6, y + 4, f"1e{power}", "end")]
    for value in sorted({x for x, _ in points}):
        x, _ = place(value, 10.0 ** y_range[0])
        parts.append(_text(x, HEIGHT - BOTTOM + 16, f"{value:g}", "middle"))
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        places = [place(x, y) for x, y in line if math.isfinite(y)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(_text(WIDTH - RIGHT + 14, TOP + 14 + 18 * i, name, "start", colour))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    parts.append(
        f'<text transform="rotate(-90)" x="{-HEIGHT / 2:.0f}" y="14" text-anchor="middle">{escape(y_label)}</text>'
    )
    return _svg(WIDTH, HEIGHT, parts)


def bar_plot(bars: Sequence[tuple[str, float]], *, label: str) -> str:
    """Horizontal bars of values that are not negative, on a linear axis, the value beside each."""
    if not bars:
        return ""
    largest = max(value for _, value in bars) or 1.0
    height = len(bars) * (BAR_PX + BAR_GAP_PX) + 24
    parts = []
    for i, (name, value) in enumerate(bars):
        y = i * (BAR_PX + BAR_GAP_PX)
        length = (WIDTH - BAR_LABEL_PX - 90) * value / largest
        parts += [
            _text(BAR_LABEL_PX - 8, y + BAR_PX - 2, name, "end"),
            f'<rect x="{BAR_LABEL_PX}" y="{y}" width="{length:.1f}" height="{BAR_PX}" fill="{COLOURS[0]}"/>',
            _text(BAR_LABEL_PX + length + 6, y + BAR_PX - 2, f"{value:.2g}", "start"),
        ]
    parts.append(_text(BAR_LABEL_PX, height - 6, label, "start"))
    return _svg(WIDTH, height, parts)


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="12">\n{body}\n</svg>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
