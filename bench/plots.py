# SPDX-License-Identifier: Apache-2.0
"""The figures that are better looked at, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .chart import Chart
from .growth_report import HOOKS, SOME

MEMORY = ("kernel_mb", "charged_mb", "models_mb", "writer_mb")


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
            lines = _by(rows, "way", "services", f"p{p}_us")
            title = f"connect(2) to accept(2), percentile {p}"
            charts[f"rivals-p{p}"] = Chart(title, "services", "us", lines)
    if "growth" in figures:
        for axis, x in (("services", "services"), ("backends", "backends_each")):
            calls = [row for row in figures["growth"][f"{axis}_calls"] if row["called"] == SOME]
            room = figures["growth"][f"{axis}_room"]
            title = x.replace("_", " ")
            for name, what, unit, rows, columns in (
                ("hooks", "A hook's cost, net of an empty program's", "ns", calls, HOOKS),
                ("connect", "connect(2) to a service, median", "us", calls, ("tcp_us", "udp_us")),
                ("change", "One backend's change", "us", room, ("change_us_p50", "change_us_p99")),
                (
                    "memory",
                    "Memory",
                    "MB",
                    room,
                    MEMORY,
                ),
            ):
                lines = {
                    column: [(row[x], _number(row[column])) for row in rows]
                    for column in columns
                    if all(isinstance(row[column], (int, float, dict)) for row in rows)
                }
                charts[f"growth-{name}-{axis}"] = Chart(what, title, unit, lines)
    return charts


def _by(
    rows: Sequence[Mapping[str, Any]], line: str, x: str, y: str
) -> dict[str, list[tuple[float, float]]]:
    """A line for each of the values of a column."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(str(row[line]), []).append((row[x], row[y]))
    return lines


def _number(value: Any) -> float:
    """What stands in a cell; a logarithm needs more than nothing."""
    return max(0.01, float(value["net_ns"] if isinstance(value, dict) else value))
