# SPDX-License-Identifier: Apache-2.0
"""The parts of a run: each measures in sandboxes of its own, and prints its tables."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

from kernel.harness import Box, rawbpf

import hostreach

from . import growth, hooks, latency, report, rivals, table, traffic, variety
from .growth_report import growth_values
from .load import Library, Shape
from .programs import sizes
from .rivals_report import rival_latency_rows, rival_rate_rows
from .variety_report import variety_values

_SECONDS = 120
"""More than any child takes; who needs longer is stuck."""


class Effort(NamedTuple):
    """How much of everything."""

    rounds: int  # of the hooks' contestants
    connections: int
    table_services: int
    table_rounds: int
    growth: growth.Effort
    variety: variety.Effort
    rivals: rivals.Effort


FULL = Effort(15, 10_000, 10_000, 5, growth.FULL, variety.FULL, rivals.FULL)
QUICK = Effort(5, 2_000, 2_000, 3, growth.QUICK, variety.QUICK, rivals.QUICK)
SMOKE = Effort(1, 100, 100, 1, growth.SMOKE, variety.SMOKE, rivals.SMOKE)

Figures = dict[str, Any]


def measure_hooks(effort: Effort) -> Figures:
    """Each hook's cost, and the programs' sizes."""
    with closing(Box()) as box:
        node = hostreach.open(str(box.pin))
        node.services.apply(Shape().made())
        node.attach(cgroup=str(box.cgroup))
        for hook in rawbpf.ATTACH_TYPES:
            rawbpf.attach(box.bare, hook)
        costs = box.call(hooks.measure, box, Library(), effort.rounds, timeout=_SECONDS)
    figures = {"hooks": report.hook_rows(costs), "programs": report.program_rows(sizes())}
    rounds = f"median and quartiles of {effort.rounds} rounds"
    report.show(f"Hooks: ns net of an empty program, {rounds}", figures["hooks"])
    report.show("Programs", figures["programs"])
    return figures


def measure_latency(effort: Effort) -> Figures:
    """Without the empty programs: the way without hostreach is the way without anything."""
    with closing(Box()) as box:
        node = hostreach.open(str(box.pin))
        node.services.apply(Shape().made())
        node.attach(cgroup=str(box.cgroup))
        took = box.call(latency.measure, box, Library(), effort.connections, timeout=_SECONDS)
    rows = report.latency_rows(took)
    report.show("connect(2), IPv4, each on a new socket, interleaved", rows)
    return {"latency": rows}


def measure_table(effort: Effort) -> Figures:
    """Writing."""
    with closing(Box()) as box:
        written = table.measure(box.pin, effort.table_services, effort.table_rounds)
    values = report.table_values(written)
    report.show("Table", [values])
    return {"table": values}


def measure_growth(effort: Effort) -> Figures:
    """More services, and more backends of each."""
    values = growth_values(*growth.measure(effort.growth, say))
    for axis in ("services", "backends"):
        report.show(f"More {axis}: calls, ns net of an empty program", values[f"{axis}_calls"])
        report.show(f"More {axis}: memory and writing", values[f"{axis}_room"])
    return {"growth": values}


def measure_variety(effort: Effort) -> Figures:
    """Other clients."""
    values = variety_values(variety.measure(effort.variety, say))
    report.show("Many processes: connect(2), UDP, calls a second", values["crowds"])
    report.show("Short-lived processes, TCP", values["lives"])
    report.show("Forms of addresses: ns net of an empty program", values["forms"])
    return {"variety": values}


def measure_rivals(effort: Effort) -> Figures:
    """What a user would pick instead."""
    if missing := traffic.missing():
        print(f"\nRivals: left out, for there is no {' and no '.join(missing)} here")
        return {}
    versions = {each.text: each.version() for each in rivals.here(effort.rivals)}
    print()
    for name in effort.rivals.rivals:
        print(f"{name}: {versions.get(name, 'left out, for it is not installed')}")
    results = rivals.measure(effort.rivals, say)
    rows, rates = rival_latency_rows(results), rival_rate_rows(results)
    report.show("connect(2) to accept(2), IPv4, TCP", rows)
    report.show("Rates, as parts of the direct one", rates)
    return {"rivals": {"versions": versions, "latency": rows, "rates": rates}}


def say(text: str) -> None:
    """What takes long now, to whoever waits at a terminal."""
    if sys.stderr.isatty():
        print(f"  {text} ...", file=sys.stderr)


# Rivals come last: the kernel takes its time to remove so many rules.
PARTS: dict[str, Callable[[Effort], Figures]] = {
    "hooks": measure_hooks,
    "latency": measure_latency,
    "table": measure_table,
    "growth": measure_growth,
    "variety": measure_variety,
    "rivals": measure_rivals,
}
