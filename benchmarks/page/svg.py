"""Small plots as SVG text: bars, stacked bars, lines. Pure: the same figures give the same bytes.

Text takes a grey that can be read on light and dark pages alike: an image does not know on which it stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.page.values import shown

WIDTH = 720
_LABEL, _VALUE, _ROW, _TOP = 210, 90, 22, 34
COLOURS = (
    *("#4c8dd6", "#e0803a", "#57a55a", "#c65a72", "#8b6fc0", "#a58a2b", "#3aa6a0"),
    *("#b06ab3", "#7a8796", "#5f7fbf", "#c98f5b", "#6f9c4e", "#bf5f9f", "#808080", "#4fa3c7"),
)
_STYLE = (
    "<style>text{font:11px system-ui,sans-serif;fill:#737b85}.t{font-size:12px;font-weight:600}"
    ".g{stroke:#8884;fill:none}</style>"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, or a row of them end to end. `values` go with the names of the plot's series."""

    label: str
    values: Sequence[float]


def bars(title: str, rows: Sequence[Bar], *, unit: str = "") -> str:
    """Return a bar for each row, of one value each, with the value beside it."""
    most = max((row.values[0] for row in rows), default=0.0) or 1.0
    parts = []
    for i, row in enumerate(rows):
        y, length = _TOP + i * _ROW, row.values[0] / most * (WIDTH - _LABEL - _VALUE)
        parts.append(_label(row.label, y))
        parts.append(f'<rect x="{_LABEL}" y="{y}" width="{_n(length)}" height="14" fill="{COLOURS[0]}"/>')
        parts.append(_text(_LABEL + length + 6, y + 11, shown(row.values[0], unit)))
    return _svg(title, parts, _TOP + len(rows) * _ROW + 8)


def pairs(title: str, rows: Sequence[Bar], series: Sequence[str], *, unit: str = "") -> str:
    """Return for each row a bar for each series, one below the other, with the values beside them."""
    most = max((value for row in rows for value in row.values), default=0.0) or 1.0
    parts, step = _key(series), 14 * len(series) + 10
    for i, row in enumerate(rows):
        top = _TOP + 20 + i * step
        parts.append(_label(row.label, top + (14 * len(series) - 14) / 2))
        for j, value in enumerate(row.values):
            y, length = top + 14 * j, value / most * (WIDTH - _LABEL - _VALUE)
            parts.append(f'<rect x="{_LABEL}" y="{_n(y)}" width="{_n(length)}" height="12" fill="{COLOURS[j]}"/>')
            parts.append(_text(_LABEL + length + 6, y + 10, shown(value, unit)))
    return _svg(title, parts, _TOP + 20 + len(rows) * step)


def stacked(title: str, rows: Sequence[Bar], series: Sequence[str], *, unit: str = "") -> str:
    """Return a row of bars end to end for each row, their sum beside it, and a key."""
    most = max((sum(row.values) for row in rows), default=0.0) or 1.0
    parts = []
    for i, row in enumerate(rows):
        x, y = float(_LABEL), _TOP + i * _ROW
        parts.append(_label(row.label, y))
        for j, value in enumerate(row.values):
            length = value / most * (WIDTH - _LABEL - _VALUE)
            if length >= 0.05:
                fill = COLOURS[j % len(COLOURS)]
                parts.append(f'<rect x="{_n(x)}" y="{y}" width="{_n(length)}" height="16" fill="{fill}"/>')
            x += length
        parts.append(_text(x + 6, y + 12, shown(sum(row.values), unit)))
    top = _TOP + len(rows) * _ROW + 10
    per_line = 3
    for j, name in enumerate(series):
        x, y = 14 + (j % per_line) * (WIDTH - 20) / per_line, top + j // per_line * 18
        parts.append(f'<rect x="{_n(x)}" y="{_n(y)}" width="10" height="10" fill="{COLOURS[j % len(COLOURS)]}"/>')
        parts.append(_text(x + 15, y + 9, name))
    return _svg(title, parts, top + math.ceil(len(series) / per_line) * 18 + 6)


def lines(title: str, marks: Sequence[str], rows: Sequence[Bar], *, unit: str = "") -> str:
    """Return a line for each row over the marks, on a logarithmic scale. All values are above 0."""
    left, right, top, height = 64, WIDTH - 24, _TOP + 24, 190
    every = [value for row in rows for value in row.values]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    high = max(high, low + 1)

    def x(i: int) -> float:
        return left + 20 + i * (right - left - 40) / max(1, len(marks) - 1)

    def y(value: float) -> float:
        return top + height * (1 - (math.log10(value) - low) / (high - low))

    parts = _key([row.label for row in rows])
    for power in range(low, high + 1):
        level = y(10.0**power)
        parts.append(f'<path class="g" d="M{left} {_n(level)}H{right}"/>')
        parts.append(_text(left - 6, level + 4, shown(10.0**power, unit), "end"))
    parts += [_text(x(i), top + height + 18, mark, "middle") for i, mark in enumerate(marks)]
    for j, row in enumerate(rows):
        points = [(x(i), y(value)) for i, value in enumerate(row.values)]
        path = "L".join(f"{_n(px)} {_n(py)}" for px, py in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[j]}" stroke-width="2"/>')
        for (px, py), value in zip(points, row.values, strict=True):
            parts.append(f'<circle cx="{_n(px)}" cy="{_n(py)}" r="3" fill="{COLOURS[j]}"/>')
            parts.append(_text(px, py + (16 if j == 0 < len(rows) - 1 else -7), shown(value), "middle"))
    return _svg(title, parts, top + height + 28)


def _key(series: Sequence[str]) -> list[str]:
    parts, x = [], float(_LABEL)
    for j, name in enumerate(series):
        parts.append(f'<rect x="{_n(x)}" y="{_TOP - 6}" width="10" height="10" fill="{COLOURS[j]}"/>')
        parts.append(_text(x + 15, _TOP + 3, name))
        x += 40 + 6.5 * len(name)
    return parts


def _label(text: str, y: float) -> str:
    return _text(_LABEL - 8, y + 11, text, "end")


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(title: str, parts: Sequence[str], height: float) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {_n(height)}" width="{WIDTH}" '
        f'height="{_n(height)}" role="img"><title>{escape(title)}</title>{_STYLE}'
    )
    return "\n".join((head, f'<text class="t" x="14" y="18">{escape(title)}</text>', *parts, "</svg>")) + "\n"


def _n(value: float) -> str:
    """Return a coordinate: one decimal is enough, and makes the text the same on every machine."""
    return f"{value:.1f}".removesuffix(".0")
