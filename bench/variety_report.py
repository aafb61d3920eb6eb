# SPDX-License-Identifier: Apache-2.0
"""Variety as rows of tables."""

from __future__ import annotations

import statistics
from typing import Any

from .report import PERCENTILES, hook_rows, percentiles, ratio
from .variety import DIRECT, Crowd, Measured


def variety_values(measured: Measured) -> dict[str, Any]:
    """All three tables."""
    return {
        "crowds": [_crowd(each, measured.crowds) for each in measured.crowds],
        "lives": _lives(measured),
        "forms": [
            {("form" if name == "hook" else name): value for name, value in row.items()}
            for row in hook_rows(measured.forms)
        ],
    }


def _crowd(crowd: Crowd, all_of_them: list[Crowd]) -> dict[str, Any]:
    """What of its rate alone each process keeps among others; and the same by what direct keeps."""
    (direct,) = (
        each for each in all_of_them if each.call == crowd.call and each.way == DIRECT.text
    )
    kept = _kept(crowd)
    of_direct = [own / other for own, other in zip(kept, _kept(direct), strict=True)]
    return {
        "call": crowd.call,
        "way": crowd.way,
        "processes": crowd.processes,
        "alone_per_s": round(statistics.median(crowd.alone)),
        "each_together_per_s": round(statistics.median(crowd.together)),
        "kept": ratio(kept),
        "of_direct_x": round(statistics.median(of_direct), 3),
    }


def _kept(crowd: Crowd) -> list[float]:
    return [many / one for many, one in zip(crowd.together, crowd.alone, strict=True)]


def _lives(measured: Measured) -> list[dict[str, Any]]:
    rows = []
    base = percentiles(measured.lives[0].took)
    for lives in measured.lives:
        cuts = percentiles(lives.took)
        row: dict[str, Any] = {"way": lives.way, "processes": len(lives.took)}
        row |= {f"p{p}_us": round(cut, 1) for p, cut in zip(PERCENTILES, cuts, strict=True)}
        for p, cut, own in zip(PERCENTILES, cuts, base, strict=True):
            row[f"p{p}_x"] = round(cut / own, 3)
        rows.append(row)
    return rows
