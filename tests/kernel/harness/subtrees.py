# SPDX-License-Identifier: Apache-2.0
"""A service, and the cgroups whose tasks reach it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostreach import Service

from . import Box
from .clients import UDP_CONNECTED, V4, Seen, exchange, outcome
from .host import move_to

if TYPE_CHECKING:
    from hostreach.node import Node

VIP = ("10.96.0.10", 80)
SERVER = "10.0.0.2:8080"
REACHED = Seen(SERVER, VIP)
UNSEEN = "ENETUNREACH"
NO_CGROUPS = "way for programs to tell a task's cgroup"  # test_without says what is refused


def serve(box: Box, node: Node, **scope: Any) -> None:
    for protocol in ("tcp", "udp"):
        box.serve(f"{SERVER}/{protocol}")
        node.services.add(Service.of(f"10.96.0.10:80/{protocol}", SERVER, **scope))


def by_cgroup(box: Box, tree: dict[str, Path], kind: str = UDP_CONNECTED) -> set[str]:
    """The cgroups whose tasks reach the service; the others find no such address."""

    def attempt(path: Path) -> object:
        move_to(path)
        return outcome(exchange, V4, kind, VIP)

    seen = {name: box.call(attempt, path) for name, path in tree.items()}
    assert all(each in (REACHED, UNSEEN) for each in seen.values()), seen
    return {name for name, each in seen.items() if each == REACHED}
