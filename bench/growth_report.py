# SPDX-License-Identifier: Apache-2.0
"""Growth as rows of tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .growth import CALLS, COLD_CALLS, Filled, Size
from .latency import WAYS
from .model import possible_cpus, sized_bytes
from .report import hook_rows, latency_rows

REFERENCE = 1_000
"""What other numbers of services are compared with."""
SOME = "some"
"""As `growth.CALLED` has it."""
AS_REFERENCE = "of_1000"


HOOKS = ("connect_udp", "connect_tcp", "sendmsg")
_NAMES = {
    call.text: name
    for calls in (CALLS, COLD_CALLS)
    for call, name in zip(calls, HOOKS, strict=True)
}


def growth_values(services: Sequence[Size], backends: Sequence[Size]) -> dict[str, Any]:
    """By axis: what calls cost, and what the tables and their writers take."""
    return {
        f"{axis}_{what}": rows(sizes)
        for axis, sizes in (("services", services), ("backends", backends))
        for what, rows in (("calls", _calls), ("room", _room))
    }


def _count(size: Size) -> dict[str, Any]:
    services = size.shape.services * len(size.shape.protocols)
    return {"services": services, "backends_each": size.shape.backends}


def _calls(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Hooks' costs net of the empty program's, warm and cold, and connect(2)'s latency."""
    rows = []
    for size in sizes:
        for costs, which in ((size.costs, SOME), (size.cold, "each once")):
            if not costs:
                continue
            row = {**_count(size), "called": which}
            by_name = {_NAMES[cost["call"]]: cost["service"] for cost in hook_rows(costs)}
            row |= {name: by_name[name] for name in HOOKS}
            if which == SOME:
                for latency in latency_rows(size.latencies):
                    if latency["way"] == WAYS[-1].text:
                        name = latency["protocol"]
                        row[f"{name}_us"], row[f"{name}_x"] = latency["p50_us"], latency["p50_x"]
            rows.append(row)
    return _compared(rows)


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With each hook's cost as a multiple of that at `REFERENCE` services, where that is known."""
    reference = next((row for row in rows if row["services"] == REFERENCE), None)
    made = []
    for row in rows:
        new: dict[str, Any] = {}
        for name, value in row.items():
            new[name] = value
            if isinstance(value, dict) and reference:
                times = value["net_ns"] / max(1, reference[name]["net_ns"])
                new[f"{name}_{AS_REFERENCE}"] = round(times, 2)
        made.append(new)
    columns = [*dict.fromkeys(name for row in made for name in row)]
    return [{name: row.get(name, "") for name in columns} for row in made]


def _room(sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Memory, and the time that writing takes."""
    cpus = possible_cpus()
    rows = []
    for size in sizes:
        filled: Filled = size.filled
        cuts = statistics.quantiles(filled.changes, n=100)
        rows.append(
            _count(size)
            | {f"max_{name}": value for name, value in size.capacities._asdict().items()}
            | {
                "kernel_mb": round(size.sized_bytes / 1e6, 2),
                "by_model_mb": round(sized_bytes(size.capacities, cpus) / 1e6, 2),
                "fixed_mb": round(size.fixed_bytes / 1e6, 2),
                "charged_mb": _megabytes(size.charged_bytes),
                "models_mb": round(filled.models_bytes / 1e6, 1),
                "writer_mb": round(filled.node_bytes / 1e6, 1),
                "fill_ms": round(filled.fill_ns / 1e6, 1),
                "change_us_p50": round(cuts[49] / 1e3, 1),
                "change_us_p99": round(cuts[98] / 1e3, 1),
            }
        )
    return rows


def _megabytes(size: int | None) -> float | str:
    return "" if size is None else round(size / 1e6, 2)
