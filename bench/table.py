# SPDX-License-Identifier: Apache-2.0
"""How fast services get into the kernel's table: many at once, one change, and nothing to do."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import hostreach
from hostreach import Service

BACKENDS = 10  # of each service


class Writing(NamedTuple):
    """Nanoseconds that each repetition took."""

    services: int
    put: list[int]
    unchanged: list[int]
    one_change: list[int]


def measure(pin: Path, services: int, rounds: int) -> Writing:
    """Writes to tables of their own, with the default capacities, which nothing is attached to."""
    wanted = [service(n) for n in range(services)]
    gc.freeze()  # so many models would be walked by each collection from now on
    put, unchanged, one_change = [], [], []
    for _ in range(rounds):
        with hostreach.open(str(pin)) as node:
            try:
                node.services.add(service(services))  # makes the tables
                put.append(_time(node.services.apply, wanted))
                unchanged.append(_time(node.services.apply, wanted))
                one_change += _change_backends(node, wanted[:: max(1, services // 200)])
            finally:
                node.detach(purge=True)
    return Writing(services, put, unchanged, one_change)


def service(number: int, backends: int = BACKENDS) -> Service:
    """The service of that number, with backends of its own."""
    high, low = divmod(number, 250)
    each = [f"10.{n % 250}.{high}.{low + 1}:{8080 + n // 250}" for n in range(backends)]
    return Service.of(f"172.16.{high}.{low + 1}:80/tcp", *each, name=f"bench/service-{number}")


def _change_backends(node: hostreach.Node, services: list[Service]) -> list[int]:
    took = []
    for service in services:
        frontend, old = str(service.frontend), service.backends[0].address
        took.append(_time(node.services.remove_backend, frontend, old))
        took.append(_time(node.services.add_backend, frontend, old))
    return took


def _time(action: Callable[..., object], *arguments: object) -> int:
    begin = time.perf_counter_ns()
    action(*arguments)
    return time.perf_counter_ns() - begin
