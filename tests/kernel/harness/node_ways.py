# SPDX-License-Identifier: Apache-2.0
"""The ways to name a node, and what clients come to by each, at a `node:` frontend."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hostreach import Service

from . import Box, kernel
from .clients import (
    KINDS,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    exchange,
    new_socket,
    outcome,
    refusals,
)
from .host import HOST_V4, HOST_V6, PORT

if TYPE_CHECKING:
    from hostreach.node import Node

IP_RECVERR = 11
IPV6_RECVERR = 25

TYPES = ("tcp", "udp")
BACKENDS = {4: "10.0.0.2:8080", 6: "[fd00::2]:8080"}


@dataclass(frozen=True)
class Way:
    """One way to name the node: what a client says, and what it is shown without hostreach too."""

    family: Family
    host: str
    shown: str
    loopback: bool
    version: int

    def __str__(self) -> str:
        return self.host


WAYS = [
    Way(V4, HOST_V4, HOST_V4, False, 4),
    Way(V4, "127.0.0.1", "127.0.0.1", True, 4),
    Way(V4, "127.0.0.2", "127.0.0.2", True, 4),
    Way(V4, "0.0.0.0", "127.0.0.1", True, 4),
    Way(V6, HOST_V6, HOST_V6, False, 6),
    Way(V6, "::1", "::1", True, 6),
    Way(V6, "::", "::1", True, 6),
    Way(V6, f"::ffff:{HOST_V4}", f"::ffff:{HOST_V4}", False, 4),
    Way(V6, "::ffff:127.0.0.1", "::ffff:127.0.0.1", True, 4),
    Way(V6, "::ffff:127.0.0.2", "::ffff:127.0.0.2", True, 4),
    Way(V6, "::ffff:0.0.0.0", "::ffff:127.0.0.1", True, 4),
]


def add(node: Node, *backends: str) -> None:
    for protocol in ("tcp", "udp"):
        node.services.add(Service.of(f"node:{PORT}/{protocol}", *backends or BACKENDS.values()))


def serve_backends(box: Box) -> None:
    box.serve(*(f"{server}/{protocol}" for server in BACKENDS.values() for protocol in TYPES))


def try_all(way: Way, port: int = PORT) -> dict[str, object]:
    """What each kind of client comes to."""
    return {kind: outcome(_try, way, kind, port) for kind in KINDS}


def refused() -> dict[str, str]:
    """As refusals(); but who asks for ICMP errors, as _try() does, hears of lost datagrams too."""
    return refusals() | {UDP_UNCONNECTED: "ECONNREFUSED"}


def ways() -> list[Way]:
    """Those that reach a node: frontend here; none by loopback if nobody knows the host's."""
    return [way for way in WAYS if kernel.knows_the_host() or not way.loopback]


def try_ways(port: int = PORT) -> list[dict[str, object]]:
    """What each kind of client comes to, by each of ways()."""
    return [try_all(way, port) for way in ways()]


def by_way(seen: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    return dict(zip(map(str, ways()), seen, strict=True))


def _try(way: Way, kind: str, port: int) -> Seen:
    if kind != UDP_UNCONNECTED:
        return exchange(way.family, kind, (way.host, port))
    with new_socket(way.family, kind) as client:
        # Else the kernel says nothing of a closed port, and the wait is long.
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        if way.family is V6:
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        return ask(client, (way.host, port))
