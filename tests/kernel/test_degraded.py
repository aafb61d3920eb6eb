# SPDX-License-Identifier: Apache-2.0
"""Sockets that the kernel gives no storage: the LRU remembers for them, and it is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import NO_STARVING, Box, kernel, linux
from .harness.clients import (
    FAMILIES,
    KINDS,
    RAW_UNSPEC,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    Family,
    Seen,
    ask,
    connect,
    exchange,
    new_socket,
    outcome,
    protocol_of,
)
from .harness.host import opened
from .harness.rawmap import HASH, RawMap

if TYPE_CHECKING:
    from hostreach.node import Node


@pytest.fixture
def starved(box: Box, node: Node) -> Node:
    kernel.need(kernel.remembers_on_sockets(), "socket storage, which could fail")
    if not box.starve():
        pytest.skip(NO_STARVING)
    return node


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_without_socket_storage(box: Box, starved: Node, family: Family, kind: str) -> None:
    protocol = protocol_of(kind)
    servers = [family.endpoint(family.backend(n), 8053) for n in (2, 3)]
    box.serve(*(f"{server}/{protocol}" for server in servers))
    starved.services.add(Service.of(f"{family.endpoint(family.vip(), 53)}/{protocol}", *servers))
    vip = family.sockaddr(family.vip(), 53)
    for _ in range(4):
        seen = box.call(exchange, family, kind, vip)
        assert seen.peer == vip
        assert seen.server in servers
    assert starved.status().storage_failed >= 4
    assert starved.status().unremembered == 0


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_one_socket_without_storage(box: Box, starved: Node, family: Family) -> None:
    servers = [family.endpoint(family.backend(n), 8053) for n in range(2, 6)]
    box.serve(*(f"{server}/udp" for server in servers))
    vips = []
    for number, server in enumerate(servers, 1):
        starved.services.add(Service.of(f"{family.endpoint(family.vip(number), 53)}/udp", server))
        vips.append(family.sockaddr(family.vip(number), 53))

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            for _ in range(3):
                for vip, server in zip(vips, servers, strict=True):
                    assert ask(client, vip) == Seen(server, vip)
        with new_socket(family, UDP_CONNECTED) as client:
            for vip, server in zip(vips, servers, strict=True):
                connect(client, vip)
                assert client.getpeername()[:2] == kernel.shown(vip, family.sockaddr_of(server))
                assert ask(client) == Seen(server, vip)
                assert ask(client, vip) == Seen(server, vip)
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            direct = family.sockaddr(family.backend(5), 8053)
            assert ask(client, direct) == Seen(servers[-1], direct)
            connect(client, direct)
            assert client.getpeername()[:2] == direct
            assert ask(client) == Seen(servers[-1], direct)

    box.call(converse)


def without_overflow(box: Box) -> None:
    """A hash with room for one entry, which it has, takes the LRU's place: nothing more fits."""
    with RawMap.pinned(box.pin / "overflow") as lru:
        shape = lru.shape
    (box.pin / "overflow").unlink()
    with RawMap.create("overflow", shape._replace(kind=HASH, entries=1)) as full:
        full[bytes(shape.key)] = bytes(shape.value)
        full.pin(box.pin / "overflow")


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_nothing_remembers(box: Box, family: Family) -> None:
    """A counted ECONNREFUSED, for UDP; TCP connects, and shows the backend."""
    server = family.endpoint(family.backend(2), 8053)
    vip, backend = family.sockaddr(family.vip(), 53), family.sockaddr(family.backend(2), 8053)
    with opened(box) as node:
        for protocol in ("tcp", "udp"):
            box.serve(f"{server}/{protocol}")
            node.services.add(Service.of(f"{family.endpoint(family.vip(), 53)}/{protocol}", server))
        without_overflow(box)
        node.attach(cgroup=str(box.cgroup))
        if kernel.remembers_on_sockets():
            assert box.call(exchange, family, UDP_CONNECTED, vip) == Seen(server, vip)
            assert node.status().unremembered == 0
            if not box.starve():
                pytest.skip(NO_STARVING)

        def refused(kind: str) -> list[object]:
            with new_socket(family, kind) as client:
                if kind == UDP_CONNECTED:
                    return [outcome(client.connect, vip), outcome(client.getpeername)]
                return [outcome(client.sendto, b"x", vip) for _ in range(2)]

        at_once = kernel.refuses_at_once()
        connecting = "ECONNREFUSED" if at_once else None
        assert box.call(refused, UDP_CONNECTED) == [connecting, "ENOTCONN"]
        assert node.status().unremembered == 1
        assert box.call(refused, UDP_UNCONNECTED) == ["ECONNREFUSED" if at_once else 1] * 2
        assert node.status().unremembered == 3
        # of no service, and so nothing to be remembered
        assert box.call(exchange, family, UDP_UNCONNECTED, backend) == Seen(server, backend)
        assert node.status().unremembered == 3
        seen = box.call(exchange, family, TCP, vip)
        assert seen == Seen(server, backend if kernel.shows_services() else vip)
        assert node.status().unremembered == 4
