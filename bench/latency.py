# SPDX-License-Identifier: Apache-2.0
"""How long connect(2) takes a process: without hostreach, past it, and through a service."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from kernel.harness import Box

from .load import Library, Shape, allow_many_files, backend_addresses, sockets

_BATCH = 100
_FAMILY = 4


class Way(NamedTuple):
    """How a connection gets to its backend."""

    text: str
    bare: bool
    service: bool


WAYS = (
    Way("direct, without hostreach", True, False),
    Way("direct", False, False),
    Way("through a service", False, True),
)


class Latency(NamedTuple):
    """Nanoseconds of each connect."""

    protocol: str
    way: str
    took: list[int]


def measure(
    box: Box,
    library: Library,
    count: int,
    shape: Shape = Shape(),  # noqa: B008 - immutable
) -> list[Latency]:
    """So many connections each way, each on a new socket, turn and turn about."""
    allow_many_files()
    kinds = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
    services = shape.service_addresses(_FAMILY)
    return [
        Latency(protocol, way.text, took)
        for protocol, kind in kinds.items()
        if protocol in shape.protocols
        for way, took in zip(WAYS, _measure(box, library, kind, count, services), strict=True)
    ]


def _measure(
    box: Box,
    library: Library,
    kind: socket.SocketKind,
    count: int,
    services: Sequence[tuple[str, int]],
) -> list[list[int]]:
    took: list[list[int]] = [[] for _ in WAYS]
    for start in range(0, count, _BATCH):
        # Whoever comes first in a turn finds the caches colder: take turns at that too.
        numbers, ways = range(start, start + _BATCH), range(len(WAYS))
        turns = [(n, (n + way) % len(WAYS)) for n in numbers for way in ways]
        targets = [_target(WAYS[way], n, services) for n, way in turns]
        with sockets(_FAMILY, kind, targets) as made:
            # A socket belongs to the cgroup that it was made in, wherever its process goes.
            pools = []
            for each in WAYS:
                box.enter(bare=each.bare)
                pools.append(made.open(_BATCH))
            made.use([pools[way][n - start] for n, way in turns])
            for (_, way), nanoseconds in zip(turns, library.connect_timed(made.load), strict=True):
                took[way].append(nanoseconds)
    return took


def _target(way: Way, number: int, services: Sequence[tuple[str, int]]) -> tuple[str, int]:
    there = services if way.service else backend_addresses(_FAMILY)
    return there[number % len(there)]
