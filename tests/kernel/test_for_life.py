# SPDX-License-Identifier: Apache-2.0
"""getpeername and recvfrom stay right for a socket's life, whatever happens meanwhile.

A socket of every kind is watched while a crowd of others comes and goes, while its service is
removed and comes back, and while the programs are replaced.
"""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel, wait_until
from .harness.clients import (
    FAMILIES,
    KINDS,
    TCP,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    connect,
    fresh_payload,
    line,
    new_socket,
    receive,
)
from .harness.line import Line

if TYPE_CHECKING:
    from hostreach.node import Node

LONG = os.environ.get("HOSTREACH_LONG") == "1"
CROWD = 300_000 if LONG else 6_000
AT_ONCE = 3_000  # of the crowd are open together
PORT, SERVER_PORT = 53, 8053
OWN = 66  # services where nobody answers; more than a socket's storage holds
REMEMBERED = 32  # as many as it does


def vip(family: Family, number: int = 0) -> tuple[str, int]:
    """0: the watched service's; from 1: those where nobody answers."""
    return family.sockaddr(family.vip(10 + number), PORT)


def services(protocol: str, backend: int) -> list[Service]:
    """The watched one of either family, whose sockets outlive it."""
    return [
        Service.of(
            f"{family.endpoint(family.vip(10), PORT)}/{protocol}",
            family.endpoint(family.backend(backend), SERVER_PORT),
            on_removal="keep",
        )
        for family in (V4, V6)
    ]


def serve(box: Box, node: Node) -> None:
    for family in (V4, V6):
        servers = [family.endpoint(family.backend(n), SERVER_PORT) for n in (2, 3)]
        box.serve(*(f"{server}/{protocol}" for server in servers for protocol in ("tcp", "udp")))
        nobody = family.endpoint(family.backend(9), 1)
        node.services.apply(
            Service.of(f"{family.endpoint(family.vip(10 + number), PORT)}/udp", nobody)
            for number in range(1, 1 + OWN)
        )
    node.services.apply(services("tcp", 2) + services("udp", 2))


class Watched:
    """A socket, and what it has to see."""

    def __init__(self, family: Family, kind: str, used: int = 0) -> None:
        """`used`: how many services an unconnected socket sends to first."""
        self.family, self.kind, self.address = family, kind, vip(family)
        self.client = new_socket(family, kind)
        self.under_way: Seen | None = None
        self.payload = ""
        if kind != UDP_UNCONNECTED:
            connect(self.client, self.address)
        if kind == TCP:
            assert line(self.client) == self.server(2)
        for number in range(1, 1 + used):
            self.client.sendto(b"", vip(family, number))

    def server(self, backend: int) -> str:
        return self.family.endpoint(self.family.backend(backend), SERVER_PORT)

    def send(self, backend: int) -> None:
        """The answer is on its way, or lies in the socket, while something happens."""
        if self.kind == UDP_UNCONNECTED:
            self.payload = fresh_payload()
            self.under_way = Seen(self.server(backend), self.address)
            self.client.sendto(self.payload.encode(), self.address)

    def check(self) -> None:
        if self.kind == UDP_UNCONNECTED:
            if self.under_way:
                answer, source = receive(self.client)
                server, _, payload = answer.decode().partition(" ")
                assert payload == self.payload
                assert Seen(server, source[:2]) == self.under_way
                self.under_way = None
            return
        given = self.family.sockaddr_of(self.server(2))
        assert self.client.getpeername()[:2] == kernel.shown(self.address, given)
        if self.kind == TCP:
            self.client.sendall(b"still there\n")
            assert line(self.client) == "still there"
        else:
            assert ask(self.client) == Seen(self.server(2), self.address)


def watch(test: Line) -> None:
    """Looks each time that it is told where the next datagrams have to go; 0: sends none."""
    watched = [Watched(family, kind) for family in FAMILIES for kind in KINDS]
    watched += [Watched(family, UDP_UNCONNECTED, REMEMBERED - 1) for family in FAMILIES]
    while isinstance(backend := order(test), int):
        for each in watched:
            each.check()
        for each in watched:
            if backend:
                each.send(backend)
        test.send()


def order(test: Line) -> int | str:
    """What to do next, which may take a while to come."""
    wait_until(test.poll, "something to do", seconds=600)
    backend: int | str = test.recv()
    return backend


def crowd() -> int:
    """Sockets that connect to and send to services, thousands at once; returns how many."""
    limit = AT_ONCE + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    opened = 0
    while opened < CROWD:
        with ExitStack() as held:
            for number in range(opened, opened + AT_ONCE):
                family = FAMILIES[number % len(FAMILIES)]
                client = held.enter_context(socket.socket(family.af, socket.SOCK_DGRAM))
                if number % 2:
                    for address in (vip(family, 1), vip(family, 2)):
                        client.connect(address)
                        shown = kernel.shown(address, family.sockaddr(family.backend(9), 1))
                        assert client.getpeername()[:2] == shown
                    continue
                few_or_all = OWN if number % 20 == 0 else 4
                for own in (*range(1, 1 + few_or_all), few_or_all, few_or_all):
                    client.sendto(b"", vip(family, own))
            opened += AT_ONCE
    return opened


def test_whatever_happens(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(box, node)
    (one, *_, none), all_replaced = kernel.variants()
    frontends = [str(s.frontend) for p in ("tcp", "udp") for s in services(p, 2)]

    def others() -> None:
        assert box.call(crowd, timeout=600) == CROWD

    def remove() -> None:
        for frontend in frontends:
            node.services.remove(frontend)

    def add(backend: int) -> None:
        node.services.apply(services("tcp", backend) + services("udp", backend))

    def upgrade(without: str) -> None:
        with monkeypatch.context() as patch:
            kernel.switch_off(patch, without)
            changes = node.attach(cgroup=str(box.cgroup)).changes
        assert len(changes) == (9 if all_replaced else 4)
        assert {action for _, action in changes} == {"replaced"}

    with box.talk(watch, timeout=1200) as watched:
        watched.ask(2)
        others()
        watched.ask(2)
        upgrade(one)
        watched.ask(2)
        remove()
        others()
        upgrade(none)
        watched.ask(0)
        add(3)
        watched.ask(3)
        others()
        upgrade(one)
        remove()
        add(2)
        watched.ask(2)
        watched.ask(0)
        watched.send("enough")
    status = node.status()
    assert status.overflowed >= 4 * CROWD // 20  # so the LRU was put under pressure
    assert status.unremembered == 0
