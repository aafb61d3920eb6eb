# SPDX-License-Identifier: Apache-2.0
"""Rivals as rows of tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .report import PERCENTILES, percentiles, ratio
from .rivals import COUNTED, DIRECT, EMPTY, Result
from .traffic import KINDS

UNBALANCED = (DIRECT, EMPTY)


def rival_latency_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Percentiles by number of services and way, and as multiples of the direct one's."""
    rows = []
    for result in results:
        base = percentiles(result.latency[DIRECT])
        others = {way: took for way, took in result.latency.items() if way not in UNBALANCED}
        first = min(others, key=lambda way: percentiles(others[way])[0])
        for way, took in result.latency.items():
            cuts = percentiles(took)
            row: dict[str, Any] = {"services": result.services, "way": way}
            row |= {f"p{p}_us": round(cut, 2) for p, cut in zip(PERCENTILES, cuts, strict=True)}
            for p, cut, own in zip(PERCENTILES, cuts, base, strict=True):
                row[f"p{p}_x"] = round(cut / own, 3)
            row["turns"] = ratio(_by_turn(took, result.latency[DIRECT]))
            seconds = result.load_seconds.get(way)
            row["loaded_in_s"] = "" if seconds is None else round(seconds, 2)
            row["least"] = "*" if way == first else ""
            rows.append(row)
    return rows


def _by_turn(took: Sequence[int], direct: Sequence[int]) -> list[float]:
    """Each turn's median as a multiple of the direct one's."""
    return [
        statistics.median(took[at : at + COUNTED]) / statistics.median(direct[at : at + COUNTED])
        for at in range(0, len(took), COUNTED)
    ]


def rival_rate_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Rates as parts of the direct one's in the same round: median and quartiles."""
    rows = []
    for result in results:
        ways = [way for way in result.latency if way != DIRECT]
        for kind in KINDS:
            own = result.rates[kind.text, DIRECT]
            row: dict[str, Any] = {"services": result.services, "traffic": kind.text}
            row["direct_per_s"] = round(statistics.median(own))
            row["unit"] = kind.unit.removesuffix("/s")
            for way in ways:
                rates = result.rates[kind.text, way]
                row[way] = ratio([rate / base for rate, base in zip(rates, own, strict=True)])
            rivals = [way for way in ways if way not in UNBALANCED]
            row["most"] = max(rivals, key=lambda way: row[way]["x"])
            rows.append(row)
    return rows
