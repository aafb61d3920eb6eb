# SPDX-License-Identifier: Apache-2.0
"""The parts of a run: each measures in sandboxes of its own, and prints its tables."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from kernel.harness import Box, rawbpf

import hostreach

from . import commands, growth, hooks, latency, memory, report, rivals, traffic, variety, writing
from .growth_report import growth_values
from .load import Library, Shape
from .programs import sizes
from .rivals_report import rival_latency_rows, rival_rate_rows
from .variety_report import variety_values

_SECONDS = 120
"""More than any child takes; who needs longer is stuck."""


class Writes(NamedTuple):
    """Of the control plane: tables by services and backends of each, services in a file."""

    tables: Sequence[tuple[int, int]]
    table_rounds: int
    filed: int
    file_rounds: int
    starts: int


class Effort(NamedTuple):
    """How much of everything."""

    rounds: int  # of the hooks' contestants
    connections: int
    loads: int  # from memory
    writes: Writes
    growth: growth.Effort
    variety: variety.Effort
    rivals: rivals.Effort


FULL = Effort(
    15,
    10_000,
    300_000,
    Writes(
        [  # one of the two grows at a time
            *((services, 10) for services in (1, 100, 1_000, 10_000, 50_000)),
            *((1_000, backends) for backends in (1, 100, 500)),
        ],
        5,
        50_000,
        3,
        30,
    ),
    growth.FULL,
    variety.FULL,
    rivals.FULL,
)
QUICK = Effort(
    5,
    2_000,
    300_000,
    Writes([(1_000, 10), (10_000, 10), (1_000, 100)], 2, 10_000, 1, 5),
    growth.QUICK,
    variety.QUICK,
    rivals.QUICK,
)
SMOKE = Effort(
    1, 100, 100, Writes([(20, 10)], 1, 20, 1, 1), growth.SMOKE, variety.SMOKE, rivals.SMOKE
)

Figures = dict[str, Any]


def measure_memory(effort: Effort) -> Figures:
    """The machine's own: what a look-up waits for where its lines are in no near cache."""
    rows = memory.measure(effort.rounds, effort.loads)
    report.show("Memory: a load that waits for the one before, ns by how much they go over", rows)
    return {"memory": rows}


def measure_hooks(effort: Effort) -> Figures:
    """Each hook's cost."""
    with closing(Box()) as box:
        node = hostreach.open(str(box.pin))
        node.services.apply(Shape().made())
        node.attach(cgroup=str(box.cgroup))
        for hook in rawbpf.ATTACH_TYPES:
            rawbpf.attach(box.bare, hook)
        costs = box.call(hooks.measure, box, Library(), effort.rounds, timeout=_SECONDS)
    rows = report.hook_rows(costs)
    rounds = f"median and quartiles of {effort.rounds} rounds"
    report.show(f"Hooks: ns net of an empty program, {rounds}", rows)
    return {"hooks": rows}


def measure_programs(_: Effort) -> Figures:
    """Their sizes."""
    rows = report.program_rows(sizes())
    report.show("Programs", rows)
    return {"programs": rows}


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


def measure_library(effort: Effort) -> Figures:
    """Tables that are filled, and changed."""
    with closing(Box()) as box:
        rows = [
            writing.library(box.pin, *size, effort.writes.table_rounds)
            for size in effort.writes.tables
        ]
    report.show("Library: milliseconds, median and range; microseconds of one change", rows)
    return {"library": rows}


def measure_files(effort: Effort) -> Figures:
    """Services from files."""
    _, _, filed, rounds, _ = effort.writes
    with closing(Box()) as box, tempfile.TemporaryDirectory() as folder:
        rows = [
            row
            for backends in (10, 1)
            for row in commands.files(box.pin, Path(folder), filed, backends, rounds)
        ]
    report.show("hostreach apply -f, as a process", rows)
    return {"files": rows}


def measure_starts(effort: Effort) -> Figures:
    """One command at a time."""
    with closing(Box()) as box:
        rows = commands.starts(box.pin, box.cgroup, effort.writes.starts)
    report.show("Commands, milliseconds from start to exit", rows)
    return {"starts": rows}


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
    "memory": measure_memory,
    "hooks": measure_hooks,
    "programs": measure_programs,
    "latency": measure_latency,
    "library": measure_library,
    "files": measure_files,
    "starts": measure_starts,
    "growth": measure_growth,
    "variety": measure_variety,
    "rivals": measure_rivals,
}
