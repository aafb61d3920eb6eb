# SPDX-License-Identifier: Apache-2.0
"""What it takes to change the tables in the library."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import hostreach
from hostreach import Capacities, Service
from hostreach.sources.file import dump

from .report import spread

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]

CHANGES = 2000
"""Backends that are removed and added again, for one row."""


def service(number: int, backends: int) -> Service:
    """The service of that number, with backends of its own."""
    high, low = divmod(number, 250)
    each = [f"10.{n % 250}.{high}.{low + 1}:{8080 + n // 250}" for n in range(backends)]
    return Service.of(f"172.16.{high}.{low + 1}:80/tcp", *each, name=f"bench/service-{number}")


def library(pin: Path, services: int, backends: int, rounds: int) -> Row:
    """One size: fill from models, write what is prepared, nothing to change, export, one change."""
    capacities = Capacities(
        max(1024, services + services // 8),
        max(4096, services * backends * 9 // 8),
        max(8192, services * backends * 9 // 8),
    )
    wanted = [service(number, backends) for number in range(services)]
    gc.collect()
    gc.freeze()  # so many models would be walked by each collection from now on
    took: dict[str, list[float]] = {}

    def timed(name: str, action: Callable[..., T], *arguments: Any) -> T:
        begin = time.perf_counter()
        result = action(*arguments)
        took.setdefault(name, []).append((time.perf_counter() - begin) * 1e3)
        return result

    changes: list[float] = []
    for _ in range(rounds):
        with hostreach.open(str(pin), capacities=capacities) as node:
            try:
                node.services.add(service(services, backends))  # makes the tables
                timed("fill", node.services.apply, wanted)
                timed("unchanged", node.services.apply, wanted)
                timed("export", lambda node=node: dump(node.plain.plain_list()))
                changes += _single_changes(node, wanted)
            finally:
                node.detach(purge=True)
        # Into empty tables too: what was given up can be used again only after a while.
        with hostreach.open(str(pin), capacities=capacities) as node:
            try:
                node.services.add(service(services, backends))
                prepared = [node.plain.plain(each) for each in wanted]
                timed("write", node.plain.plain_write, prepared)
            finally:
                node.detach(purge=True)
    gc.unfreeze()
    entries = services * backends
    changes.sort()
    row: Row = {
        "services": services,
        "backends_each": backends,
        "capacities": " ".join(f"{size:,}" for size in capacities if size),
    }
    for name, times in took.items():
        row[f"{name}_ms"] = spread(times)
    row["fill_per_s"] = round(entries / statistics.median(took["fill"]) * 1e3)
    row["write_per_s"] = round(entries / statistics.median(took["write"]) * 1e3)
    row["one_change_us_p50"] = round(statistics.median(changes), 1)
    row["one_change_us_p99"] = round(changes[len(changes) * 99 // 100], 1)
    return row


def _single_changes(node: hostreach.Node, services: Sequence[Service]) -> list[float]:
    took = []
    some = services[:: max(1, len(services) // (CHANGES // 2))]
    for each in some:
        frontend, old = str(each.frontend), each.backends[0].address
        for change in (node.services.remove_backend, node.services.add_backend):
            begin = time.perf_counter()
            change(frontend, old)
            took.append((time.perf_counter() - begin) * 1e6)
    return took
