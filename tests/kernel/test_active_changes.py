# SPDX-License-Identifier: Apache-2.0
"""Counts of open connections through changes: to a service, and to who counts."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, scaled
from .harness.clients import TCP
from .harness.connections import SERVERS, connected, counts, place

if TYPE_CHECKING:
    from hostreach.node import Node

pytestmark = pytest.mark.usefixtures("counting")


def test_counts_stay_with_the_backend(box: Box, node: Node) -> None:
    """Through changes to its service; they are gone with it, and a new one starts at none."""
    place(box, node)
    frontend = "10.96.0.10:80/tcp"

    def converse(test: Line) -> None:
        first = [connected(TCP) for _ in range(2)]
        test.ask()
        second = connected(TCP)
        test.ask()
        for client in (*first, second):
            client.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        for change in (
            Service.of(frontend, "10.0.0.9:1", SERVERS[0], on_removal="keep"),
            Service.of(frontend, f"{SERVERS[0]},weight=7", algorithm="maglev", on_removal="keep"),
            Service.of(frontend, f"{SERVERS[0]},state=draining", on_removal="keep"),
            Service.of(frontend, SERVERS[0], on_removal="keep"),
        ):
            node.services.set(change)
            index = [backend.address for backend in change.backends].index(SERVERS[0])
            assert node.services.active(frontend)[index] == 2
        node.services.set(Service.of(frontend, "10.0.0.9:1", on_removal="keep"))
        node.services.set(Service.of(frontend, SERVERS[0], on_removal="keep"))
        assert node.services.active(frontend) == [0]
        client.ask()
        assert node.services.active(frontend) == [1]
        client.ask()
        # the old one's sockets must not be taken from the new one's
        assert node.services.active(frontend) == [0]
        client.send()


def test_recounted_at_attach(box: Box, node: Node) -> None:
    """What was opened or closed while nobody looked; see test_sockets_counted."""
    place(box, node)

    def converse(test: Line) -> None:
        clients = [connected(TCP) for _ in range(5)]
        test.ask()
        for client in clients[:3]:
            client.close()
        test.ask()
        for client in clients[3:]:
            client.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        assert counts(node) == [5, 0, 0, 0]
        node.detach()
        client.ask()
        node.attach(cgroup=str(box.cgroup))
        stale = 0 if kernel.counts_sockets() else 3
        assert counts(node) == [2 + stale, 0, 0, 0]
        client.ask()
        assert counts(node) == [stale, 0, 0, 0]
        client.send()


def test_an_upgrade_keeps_counts(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are replaced under open connections."""
    place(box, node)

    def converse(test: Line) -> None:
        clients = [connected(TCP) for _ in range(5)]
        test.ask()
        for client in clients:
            client.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        # at least the second is in every kernel that counts
        kernel.switch_off(monkeypatch, "set_retval", "netns_cookie")
        assert node.attach(cgroup=str(box.cgroup)).changes
        assert counts(node) == [5, 0, 0, 0]
        client.ask()
        assert counts(node) == [0] * 4
        client.send()


def test_many_that_come_and_go(box: Box, node: Node) -> None:
    """Processes that connect and close beside a writer that takes backends away: none is left."""
    box.serve(*(f"{server}/tcp" for server in SERVERS))
    frontend = "10.96.0.10:80/tcp"
    node.services.add(Service.of(frontend, *SERVERS, on_removal="keep", algorithm="least-conn"))

    def churn(seconds: float) -> int:
        deadline, done = time.monotonic() + seconds, 0
        held: list[socket.socket] = []
        while time.monotonic() < deadline:
            held.append(connected(TCP))
            if len(held) > 10:
                held.pop(done % 10).close()
            done += 1
        return done

    clients = [box.start(churn, scaled(1.5)) for _ in range(4)]
    deadline = time.monotonic() + scaled(1.4)
    number = 0
    while time.monotonic() < deadline:
        number += 1
        left = [server for n, server in enumerate(SERVERS) if n != number % 3]
        node.services.set(Service.of(frontend, *left, on_removal="keep", algorithm="least-conn"))
        assert max(node.services.active(frontend)) < 1 << 32
    assert all(client.result() for client in clients)
    node.services.set(Service.of(frontend, *SERVERS, on_removal="keep"))
    assert node.services.active(frontend) == [0] * 3
