# SPDX-License-Identifier: Apache-2.0
"""Lines over two logarithmic axes, as SVG: all that the pictures need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 150, 40, 50
_COLORS = ("#555555", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # for all eyes


class _Axis(NamedTuple):
    """Where a value lies between two ends, which are powers of ten."""

    low: int
    high: int
    begin: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], begin: float, end: float) -> _Axis:
        low = math.floor(math.log10(min(values)))
        return cls(low, max(low + 1, math.ceil(math.log10(max(values)))), begin, end)

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)

    def ticks(self) -> list[float]:
        return [float(10**n) for n in range(self.low, self.high + 1)]


class Chart(NamedTuple):
    """What is to be drawn; values are above 0."""

    title: str
    x: str
    unit: str
    lines: Mapping[str, Sequence[tuple[float, float]]]

    def svg(self) -> str:
        """The whole file."""
        points = [point for line in self.lines.values() for point in line]
        across = _Axis.over([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
        up = _Axis.over([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
        parts = [*self._frame(across, up), *self._drawn(across, up)]
        head = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13"'
        body = "\n".join(parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {head}>\n'
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
        )

    def _frame(self, across: _Axis, up: _Axis) -> Iterator[str]:
        yield _text(_LEFT, 22, self.title, size=15)
        yield _text((across.begin + across.end) / 2, _HEIGHT - 12, self.x, anchor="middle")
        for tick in across.ticks():
            x = across.at(tick)
            yield _rule(x, up.begin, x, up.end)
            yield _text(x, up.begin + 18, f"{tick:,.10g}", anchor="middle")
        for tick in up.ticks():
            y = up.at(tick)
            yield _rule(across.begin, y, across.end, y)
            yield _text(_LEFT - 8, y + 4, f"{tick:,.10g} {self.unit}", anchor="end")

    def _drawn(self, across: _Axis, up: _Axis) -> Iterator[str]:
        labels = _apart([up.at(line[-1][1]) + 4 for line in self.lines.values()])
        for n, (name, line) in enumerate(self.lines.items()):
            color = _COLORS[n % len(_COLORS)]
            places = [(across.at(x), up.at(y)) for x, y in line]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            yield f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>'
            yield from (
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places
            )
            yield _text(across.end + 10, labels[n], f"{name} {line[-1][1]:,.4g}", color=color)


def _apart(heights: Sequence[float]) -> list[float]:
    """The same, with a line's height between each two."""
    placed = [0.0] * len(heights)
    last = -math.inf
    for n in sorted(range(len(heights)), key=lambda n: heights[n]):
        last = placed[n] = max(heights[n], last + 15)
    return placed


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 13, color: str = "#222222"
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}"'
    return f"<text {place}>{escape(text)}</text>"


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#dddddd"/>'
