# SPDX-License-Identifier: Apache-2.0
"""The figures that are better looked at, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .chart import Chart


def draw(figures: Mapping[str, Any], directory: Path) -> None:
    """One file for each picture that the figures have; the directory is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, chart in _charts(figures).items():
        (directory / f"{name}.svg").write_text(chart.svg())


def _charts(figures: Mapping[str, Any]) -> dict[str, Chart]:
    charts = {}
    if "rivals" in figures:
        rows = figures["rivals"]["latency"]
        for p in (50, 99):
            title = f"connect(2) to accept(2), {p}th percentile"
            charts[f"rivals-p{p}"] = _chart(title, "services", "us", rows, "way", f"p{p}_us")
    return charts


def _chart(
    title: str, x: str, unit: str, rows: Sequence[Mapping[str, Any]], line: str, value: str
) -> Chart:
    """A line for each of the values of a column, over those of another."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(str(row[line]), []).append((row[x], row[value]))
    return Chart(title, x, unit, lines)
