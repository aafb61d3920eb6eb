# SPDX-License-Identifier: Apache-2.0
"""Clients that do not go by the C library's connect and sendto: io_uring, and static Go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel
from .harness.clients import (
    KINDS,
    TCP,
    UDP_CONNECTED,
    V4,
    V6,
    Family,
)
from .harness.compiled import c_program, go_program

if TYPE_CHECKING:
    from hostreach.node import Node

CLIENTS: dict[str, tuple[Callable[[], str], list[str]]] = {
    "io_uring": (lambda: c_program("uring.c"), []),
    "io_uring-async": (lambda: c_program("uring.c"), ["async"]),
    "go": (lambda: go_program("connect.go"), []),
}


@pytest.mark.parametrize("family", [V4, V6], ids=str)
@pytest.mark.parametrize("name", CLIENTS)
def test_client(box: Box, node: Node, family: Family, name: str) -> None:
    """Reaches the server, is shown the service, is counted, exempt, and refused as others are."""
    compiled, options = CLIENTS[name]
    host, server = family.vip(), family.endpoint(family.backend(2), 8080)
    frontends = [f"{family.endpoint(host, 80)}/{protocol}" for protocol in ("tcp", "udp")]

    def run(host: str, kinds: Sequence[str] = KINDS) -> list[str]:
        said = []
        for kind in kinds:
            argument = "udp" if kind == "udp-connected" else kind
            shown = box.run([compiled(), host, "80", argument, *options])
            if shown.returncode == 77:
                pytest.skip(shown.stdout.strip())
            said.append(shown.stdout)
        return said

    box.serve(f"{server}/tcp", f"{server}/udp")
    node.services.apply(Service.of(frontend, server) for frontend in frontends)
    assert run(host) == [f"{server} {host} 80\n"] * 3
    if family is V4 and name != "go":  # Go makes an IPv4 address of it
        assert run(f"::ffff:{host}") == [f"{server} ::ffff:{host} 80\n"] * 3
    assert [node.services.active(frontend) for frontend in frontends] == [[0], [0]]
    if kernel.knows_cgroups():
        node.exempt.add(str(box.cgroup))
        assert run(host) == ["ENETUNREACH\n"] * 3
        node.exempt.remove(str(box.cgroup))
    node.services.apply(Service.of(frontend) for frontend in frontends)
    kinds = KINDS if kernel.refuses_at_once() else (TCP, UDP_CONNECTED)  # the third waits for ever
    assert run(host, kinds) == ["ECONNREFUSED\n"] * len(kinds)
    node.services.apply([], prune=True)
    assert run(host) == ["ENETUNREACH\n"] * 3
