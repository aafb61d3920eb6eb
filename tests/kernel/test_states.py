# SPDX-License-Identifier: Apache-2.0
"""Active, draining, down: what begins, what goes on, and what a socket keeps through changes."""

from __future__ import annotations

import mmap
import random
import time
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, scaled
from .harness.clients import (
    FAMILIES,
    KINDS,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    Family,
    Seen,
    ask,
    connect,
    exchange,
    line,
    new_socket,
    outcome,
    protocol_of,
    refusals,
)

if TYPE_CHECKING:
    from hostreach.node import Node

KIND = pytest.mark.parametrize("kind", KINDS)
FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
PORT = 53
VIP = ("10.96.0.10", PORT)
TRIES = 40


def place(box: Box, node: Node, count: int, kind: str, family: Family = V4) -> list[str]:
    """A service of servers at vip():PORT; it does not end what a backend leaves behind."""
    servers = [family.endpoint(family.backend(2 + n), 8053) for n in range(count)]
    box.serve(*(f"{server}/{protocol_of(kind)}" for server in servers))
    frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol_of(kind)}"
    node.services.add(Service.of(frontend, *servers, on_removal="keep"))
    return servers


def set_backends(node: Node, *backends: str) -> None:
    (service,) = node.services.list()
    node.services.set(Service.of(str(service.frontend), *backends, on_removal="keep"))


def servers_of(kind: str, family: Family = V4, tries: int = TRIES) -> set[object]:
    """Whom new sockets reach."""
    vip = family.sockaddr(family.vip(), PORT)
    return {outcome(lambda: exchange(family, kind, vip).server) for _ in range(tries)}


@pytest.mark.parametrize(
    ("family", "kind"), [*zip(FAMILIES, KINDS, strict=True)], ids=lambda each: str(each)
)
def test_new_connections_by_state(box: Box, node: Node, family: Family, kind: str) -> None:
    """Every mixture of three backends' states (and weight 0), each for TRIES new sockets."""
    a, b, c = place(box, node, 3, kind, family)
    refused = {refusals()[kind]}
    for change, expected in (
        (["active", "active", "active"], {a, b, c}),
        (["active", "draining", "down"], {a}),
        (["draining", "draining", "active"], {c}),
        (["draining", "draining", "down"], {a, b}),
        (["draining", "draining", "draining"], {a, b, c}),
        (["down", "down", "draining"], {c}),
        (["down", "down", "down"], refused),
        (["active,weight=0", "active,weight=0", "active,weight=0"], refused),
        (["active,weight=0", "draining", "down"], {b}),
        (["active,weight=0", "draining,weight=0", "down"], refused),
        (["draining,weight=0", "draining", "active,weight=0"], {b}),
        (["down", "active", "draining"], {b}),
        (["active", "active", "active"], {a, b, c}),
    ):
        states = [
            f"{server},state={state}" for server, state in zip((a, b, c), change, strict=True)
        ]
        set_backends(node, *states)
        assert box.call(servers_of, kind, family) == expected, change


@KIND
def test_a_draining_backends_connections_go_on(box: Box, node: Node, kind: str) -> None:
    """Established, or sticky: they stay, while nothing new comes."""
    servers = place(box, node, 6, kind)

    def converse(test: Line) -> None:
        with new_socket(V4, kind) as client:
            if kind != UDP_UNCONNECTED:
                connect(client, VIP)
            own = line(client) if kind == TCP else ""
            if own:
                test.send(own)
            while test.recv():
                if kind == TCP:
                    client.send(b"still\n")
                    assert line(client) == "still"
                    assert client.getpeername() == kernel.shown(VIP, V4.sockaddr_of(own))
                    test.send(None)
                else:
                    seen = ask(client, VIP if kind == UDP_UNCONNECTED else None)
                    assert seen.peer == VIP
                    test.send(seen.server)

    with box.talk(converse) as client:
        server = client.recv() if kind == TCP else client.ask(True)
        others = [each for each in servers if each != server]
        for state, after in (
            ("draining", {server}),
            ("active", {server}),
            ("draining", {server}),
            ("active,weight=0", {server}),
            ("draining,weight=0", {server}),
            ("down", {*others} if kind == UDP_UNCONNECTED else {server}),
        ):
            set_backends(node, *others, f"{server},state={state}")
            if kind == TCP:
                client.ask(True)
            else:
                assert {client.ask(True) for _ in range(5)} <= after, state
            assert (server in box.call(servers_of, kind)) is (state == "active")
        client.send(False)


@FAMILY
def test_a_socket_keeps_its_backend(box: Box, node: Node, family: Family) -> None:
    """Through any changes to others; a new one only when its own is no longer usable."""
    servers = place(box, node, 10, UDP_UNCONNECTED, family)
    vip = family.sockaddr(family.vip(), PORT)
    chance = random.Random(7)

    def converse(test: Line) -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            while test.recv():
                seen = {ask(client, vip) for _ in range(3)}
                ((server, shown),) = seen
                assert shown == vip
                test.send(server)

    with box.talk(converse) as client:
        own, moves = client.ask(True), 0
        for _ in range(120):
            some = chance.sample(servers, chance.randint(1, 9))
            states = {server: chance.choice(["active", "active", "draining", "down"])
                      for server in some}  # fmt: skip
            if own and chance.random() < 0.85 and states.get(own, "down") == "down":
                states[own] = chance.choice(["active", "draining"])
            entries = [f"{s},weight={chance.randint(0, 9)},state={states[s]}" for s in states]
            usable = [s for s, state in states.items() if state != "down"]
            set_backends(node, *entries)
            if own in usable:
                assert client.ask(True) == own, entries
                continue
            fresh = {s for s, share in zip(states, _shares(node), strict=True) if share}
            if not fresh:
                own = own if own in states else ""  # added again, it is another backend
                continue
            own = client.ask(True)
            moves += 1
            assert own in fresh
        assert moves > 3
        client.send(False)


def _shares(node: Node) -> list[int]:
    (service,) = node.services.list()
    return node.services.shares(service.frontend)


def test_its_own_removed_and_added_again(box: Box, node: Node) -> None:
    """A backend that comes back is a new one; the socket has another by then, or finds it anew."""
    servers = place(box, node, 4, UDP_UNCONNECTED)

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_UNCONNECTED) as client:
            while test.recv():
                test.send(outcome(ask, client, VIP))

    with box.talk(converse) as client:
        own = client.ask(True).server
        others = [server for server in servers if server != own]
        set_backends(node, *others)
        second = client.ask(True)
        assert second.server in others
        assert second.peer == VIP
        set_backends(node, *servers)
        assert {client.ask(True).server for _ in range(10)} == {second.server}
        set_backends(node)
        assert client.ask(True) == refusals()[UDP_UNCONNECTED]
        set_backends(node, f"{servers[0]},state=down")
        assert client.ask(True) == refusals()[UDP_UNCONNECTED]
        set_backends(node, servers[0])
        assert client.ask(True) == Seen(servers[0], VIP)
        client.send(False)


def test_an_exchange_never_changes_midway(box: Box, node: Node) -> None:
    """Two thousand datagrams of one socket while a writer rewrites all but its backend."""
    servers = place(box, node, 8, UDP_UNCONNECTED)
    stop = mmap.mmap(-1, 1)  # shared with the child

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_UNCONNECTED) as client:
            own = ask(client, VIP).server
            test.send(own)
            for _ in range(2000):
                assert ask(client, VIP) == Seen(own, VIP)
            stop[0] = 1

    chance = random.Random(8)
    with box.talk(converse, timeout=60) as client:
        own = client.recv()
        others = [server for server in servers if server != own]
        writes = 0
        deadline = time.monotonic() + scaled(30)
        while not stop[0]:
            assert time.monotonic() < deadline
            some = chance.sample(others, chance.randint(0, 7))
            own_state = chance.choice(["active", "draining", "active,weight=0"])
            entries = [f"{server},weight={chance.randint(1, 9)}" for server in some]
            entries.insert(chance.randint(0, len(entries)), f"{own},state={own_state}")
            (service,) = node.services.list()
            node.services.set(
                Service.of(
                    str(service.frontend),
                    *entries,
                    on_removal="keep",
                    algorithm=chance.choice(["random", "maglev", "least-conn"]),
                )
            )
            writes += 1
        assert writes > 20


def test_removed_and_added_services_are_new(box: Box, node: Node) -> None:
    """A socket's backend was the old service's; the new one chooses for itself, among its own."""
    servers = place(box, node, 4, UDP_UNCONNECTED)
    frontend = f"{VIP[0]}:{PORT}/udp"

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_UNCONNECTED) as client:
            while test.recv():
                test.send(outcome(ask, client, VIP))

    with box.talk(converse) as client:
        for n in range(8):
            own = client.ask(True).server
            node.services.remove(frontend)
            # another service, in whose place and with whose backends it could be mistaken
            node.services.add(Service.of("10.96.0.11:53/udp", *servers))
            assert client.ask(True) == "ENETUNREACH"
            node.services.remove("10.96.0.11:53/udp")
            left = [server for server in servers if server != own] if n % 2 else servers
            node.services.add(Service.of(frontend, *left, on_removal="keep"))
            assert client.ask(True).server in left
        client.send(False)


@pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])
def test_connected_sockets_show_the_service_through_states(box: Box, node: Node, kind: str) -> None:
    """getpeername does not depend on what became of the backend."""
    servers = place(box, node, 1, kind)
    shown = kernel.shown(VIP, V4.sockaddr_of(servers[0]))

    def converse(test: Line) -> None:
        with new_socket(V4, kind) as client:
            connect(client, VIP)
            while test.recv():
                test.send(client.getpeername())

    with box.talk(converse) as client:
        for state in ("active", "draining", "down", "active"):
            set_backends(node, f"{servers[0]},state={state}")
            assert client.ask(True) == shown
        set_backends(node)
        assert client.ask(True) == shown
        node.services.remove(f"{VIP[0]}:{PORT}/{protocol_of(kind)}")
        assert client.ask(True) == shown
        client.send(False)
