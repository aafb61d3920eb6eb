# SPDX-License-Identifier: Apache-2.0
"""A client, that is a network namespace, comes back to its backend for as long as it comes back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, scaled
from .harness.choices import FRONTEND, VIP, attach_blind, backends, choose, choose_one, given
from .harness.choices import new_client as new_udp
from .harness.clients import (
    KINDS,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    V6,
    ask,
    exchange,
    new_socket,
    outcome,
    refusals,
)
from .harness.host import (
    HOST_V4,
    HOST_V6,
    PORT,
    attach_inside,
    cgroups,
    give_addresses,
    move_to,
    opened,
    pods,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostreach.node import Node

MANY = 16


@pytest.fixture
def blind(box: Box, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    with opened(box) as node:
        attach_blind(box, node, monkeypatch)
        yield node


def set_service(node: Node, affinity: str | None, *names: str) -> None:
    node.services.set(Service.of(FRONTEND, *names or backends(MANY), affinity=affinity))


def test_every_kind_of_socket_comes_back(box: Box, node: Node) -> None:
    """By TCP or UDP, IPv4 or v4-mapped, from any process; each service for itself."""
    servers = backends(8)
    for protocol in ("tcp", "udp"):
        box.serve(*(f"{server}/{protocol}" for server in servers))
        node.services.add(Service.of(f"10.96.0.10:53/{protocol}", *servers, affinity="1h"))

    def servers_of(kind: str) -> set[str]:
        mapped = (f"::ffff:{VIP[0]}", VIP[1])
        found = {exchange(V4, kind, VIP).server for _ in range(20)}
        return found | {exchange(V6, kind, mapped).server for _ in range(20)}

    found = {kind: box.call(servers_of, kind) | box.call(servers_of, kind) for kind in KINDS}
    assert all(len(each) == 1 for each in found.values()), found
    assert found[UDP_CONNECTED] == found[UDP_UNCONNECTED]


def test_without_affinity_it_does_not(box: Box, blind: Node) -> None:
    set_service(blind, None)
    assert len(box.call(choose, 200)) > 8
    set_service(blind, "1h")
    assert len(box.call(choose, 200)) == 1
    set_service(blind, None)
    assert len(box.call(choose, 200)) > 8


def test_each_service_for_itself(box: Box, blind: Node) -> None:
    vips = [(f"10.96.1.{n}", 53) for n in range(12)]
    for host, port in vips:
        blind.services.add(Service.of(f"{host}:{port}/udp", *backends(MANY), affinity="1h"))

    def choices() -> list[str]:
        return [choose_one(vip) for vip in vips]

    first = box.call(choices)
    assert len({*first}) > 2
    assert box.call(choices) == first


def test_each_namespace_for_itself(box: Box, blind: Node) -> None:
    """And not each cgroup: two processes of one pod are one client.

    Where programs know no namespaces it is each cgroup, and where not even that, the whole node.
    """
    vips = [(f"10.96.1.{n}", 53) for n in range(12)]
    for host, port in vips:
        blind.services.add(Service.of(f"{host}:{port}/udp", *backends(MANY), affinity="1h"))

    def choices() -> list[str]:
        return [choose_one(vip) for vip in vips]

    with pods(box, 2) as (one, other), cgroups(box.cgroup, "a") as (cgroup,):

        def elsewhere() -> list[str]:
            move_to(cgroup)
            return choices()

        found = [one.call(choices), other.call(choices), box.call(choices)]
        moved = [one.call(elsewhere), other.call(choices), box.call(elsewhere)]
        if kernel.knows_namespaces():
            assert len({*map(tuple, found)}) == 3
            assert moved == found
        else:
            assert found == [found[0]] * 3
            assert moved == [moved[0], found[1], moved[0]]
            assert (moved[0] == found[0]) is not kernel.knows_cgroups()


def test_expires(box: Box, blind: Node) -> None:
    """A client that stays away longer is a new one."""
    set_service(blind, f"{int(scaled(60))}ms")

    def choices() -> set[str]:
        found = set()
        for _ in range(8):
            found.add(choose_one())
            time.sleep(scaled(0.08))
        return found

    assert len(box.call(choices)) > 1


def test_is_renewed_by_use(box: Box, blind: Node) -> None:
    """Not by the first connection's time but the last one's."""
    limit = scaled(0.3)
    set_service(blind, f"{int(limit * 1000)}ms")

    def stays() -> int:
        held = 0
        latest, server = time.monotonic(), choose_one()
        deadline = latest + 4 * limit
        while time.monotonic() < deadline:
            time.sleep(limit / 5)
            began = latest
            now, found = time.monotonic(), choose_one()
            late = time.monotonic() - began > limit * 0.9  # a slow machine's, not hostreach's
            assert late or found == server
            latest, server = now, found
            held += not late
        return held

    assert box.call(stays) > 5


def test_is_not_renewed_by_an_established_socket(box: Box, node: Node) -> None:
    """As kube-proxy and ipvs: connections count, not what is sent on them."""
    servers = backends(8)
    box.serve(*(f"{server}/udp" for server in servers))
    limit = scaled(0.2)
    service = Service.of(FRONTEND, *servers, affinity=f"{int(limit * 1000)}ms")
    node.services.add(service)

    def choices() -> set[str]:
        found = set()
        with new_socket(V4, UDP_CONNECTED) as client:
            client.connect(VIP)
            for _ in range(40):
                ask(client)
                time.sleep(limit / 6)
                if _ % 8 == 7:
                    found.add(exchange(V4, UDP_CONNECTED, VIP).server)
        return found

    assert len(box.call(choices)) > 1


@pytest.mark.parametrize("state", ["removed", "down", "weightless", "draining"])
def test_a_backend_that_goes(box: Box, blind: Node, state: str) -> None:
    """Never to one that is removed or down; draining it keeps its clients, and gets no others."""
    names = backends(MANY)
    set_service(blind, "1h", *names)
    (first,) = box.call(choose, 3)
    rest = [name for name in names if name != first]
    left = {
        "removed": rest,
        "down": [*rest, f"{first},state=down"],
        "weightless": [*rest, f"{first},weight=0"],
        "draining": [*rest, f"{first},state=draining"],
    }[state]
    set_service(blind, "1h", *left)
    keeps = state in ("draining", "weightless")
    (second,) = box.call(choose, 50)
    assert (second == first) is keeps
    with pods(box, 8) as others:
        for pod in others:
            (found,) = pod.call(choose, 3)
            assert found == second if not kernel.knows_namespaces() else found != first
    # back again: who has found another stays there
    set_service(blind, "1h", *names)
    assert set(box.call(choose, 50)) == {second}


def test_all_draining(box: Box, blind: Node) -> None:
    """They are used, and sticky too."""
    names = backends(MANY)
    set_service(blind, "1h", *(f"{name},state=draining" for name in names))
    (first,) = box.call(choose, 50)
    set_service(
        blind, "1h", *(f"{n},state={'draining' if n == first else 'active'}" for n in names)
    )
    assert set(box.call(choose, 50)) == {first}


def test_other_changes_keep_it(box: Box, blind: Node) -> None:
    names = backends(MANY)
    set_service(blind, "1h", *names)
    (first,) = box.call(choose, 3)
    others = [name for name in names if name != first]
    for change in (
        [*reversed(names)],
        [f"{name},weight=7" for name in names],
        [*others[:3], first],
        [first, "10.0.0.99:1"],
        [f"{first},weight=1", *(f"{name},weight=1000" for name in others)],
        names,
    ):
        set_service(blind, "1h", *change)
        assert set(box.call(choose, 30)) == {first}, change
    for algorithm in ("maglev", "least-conn", "random"):
        blind.services.set(Service.of(FRONTEND, *names, algorithm=algorithm, affinity="2h"))
        assert set(box.call(choose, 30)) == {first}


def test_a_new_service_knows_nobody(box: Box, blind: Node) -> None:
    """Whatever index, ids and addresses it takes over."""
    found = set()
    for _ in range(8):
        set_service(blind, "1h")
        found |= set(box.call(choose, 2))
        blind.services.remove(FRONTEND)
    assert len(found) > 1


def test_an_unconnected_socket_outlasts_it(box: Box, node: Node) -> None:
    """An exchange is one use: the socket keeps its backend, whatever the affinity's time."""
    servers = backends(8)
    box.serve(*(f"{server}/udp" for server in servers))
    node.services.add(Service.of(FRONTEND, *servers, affinity=f"{int(scaled(20))}ms"))

    def servers_of() -> set[str]:
        found = set()
        with new_socket(V4, UDP_UNCONNECTED) as client:
            for _ in range(8):
                found.add(ask(client, VIP).server)
                time.sleep(scaled(0.03))
        return found

    assert len(box.call(servers_of)) == 1


def test_a_removed_backend_and_a_waiting_socket(box: Box, node: Node) -> None:
    """A client's second socket follows its affinity; the first one's backend goes under it."""
    servers = backends(8)
    box.serve(*(f"{server}/udp" for server in servers))
    node.services.add(Service.of(FRONTEND, *servers, affinity="1h"))

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_UNCONNECTED) as client:
            while test.recv():
                both = ask(client, VIP).server, exchange(V4, UDP_CONNECTED, VIP).server
                test.send(both)

    with box.talk(converse) as client:
        for _ in range(6):
            one, other = client.ask(True)
            assert one == other
            node.services.remove_backend(FRONTEND, one)
        client.send(False)


def test_many_at_once_agree(box: Box, blind: Node) -> None:
    """Processes that connect without pause, on every CPU: one client, one backend."""
    set_service(blind, "1h")
    (first,) = box.call(choose, 1)

    def hammer(seconds: float) -> dict[str, int]:
        found: dict[str, int] = {}
        deadline = time.monotonic() + seconds
        with new_udp() as client:
            while time.monotonic() < deadline:
                for _ in range(500):
                    client.connect(VIP)
                    peer = given(client)
                    found[peer] = found.get(peer, 0) + 1
        return found

    clients = [box.start(hammer, scaled(1.5)) for _ in range(4)]
    found = [client.result() for client in clients]
    assert [set(each) for each in found] == [{first}] * 4, found


@pytest.mark.parametrize("affinity", ["1ms", "49d"])
def test_shortest_and_longest(box: Box, blind: Node, affinity: str) -> None:
    set_service(blind, affinity)

    def choices() -> set[str]:
        found = set()
        for _ in range(20):
            found.add(choose_one())
            time.sleep(0.003)
        return found

    assert (len(box.call(choices)) == 1) is (affinity == "49d")
    assert blind.services.get(FRONTEND).affinity == affinity


def test_node_ports_by_family(box: Box) -> None:
    """A client of both families has a backend in each, or is refused; it never gets the other's."""
    give_addresses(box)
    four, six = backends(4), [f"[fd00::{n}]:8053" for n in range(2, 6)]
    frontend = f"node:{PORT}/udp"
    with opened(box) as node:
        attach_inside(box, node)
        box.serve(*(f"{server}/udp" for server in four + six))

        def pair() -> tuple[object, object]:
            def server(family: object, host: str) -> str:
                which = V4 if family == 4 else V6
                return exchange(which, UDP_CONNECTED, (host, PORT)).server

            return outcome(server, 4, HOST_V4), outcome(server, 6, HOST_V6)

        node.services.add(Service.of(frontend, *four, *six, affinity="1h"))
        for _ in range(10):
            one, other = box.call(pair)
            assert one in four
            assert other in six
        node.services.set(Service.of(frontend, *four, affinity="1h"))
        one, other = box.call(pair)
        assert one in four
        assert other == refusals()[UDP_CONNECTED]


def test_node_ports_keep_both_families(box: Box) -> None:
    """What a client's IPv6 connections use must not cost its IPv4 ones their backend."""
    give_addresses(box)
    four, six = backends(8), [f"[fd00::{n}]:8053" for n in range(2, 10)]
    with opened(box) as node:
        attach_inside(box, node)
        box.serve(*(f"{server}/udp" for server in four + six))
        node.services.add(Service.of(f"node:{PORT}/udp", *four, *six, affinity="1h"))

        def alternate() -> tuple[set[str], set[str]]:
            found: tuple[set[str], set[str]] = (set(), set())
            for _ in range(12):
                found[0].add(exchange(V4, UDP_CONNECTED, (HOST_V4, PORT)).server)
                found[1].add(exchange(V6, UDP_CONNECTED, (HOST_V6, PORT)).server)
            return found

        one, other = box.call(alternate)
        assert (len(one), len(other)) == (1, 1)


def test_two_servers_of_one_namespace(box: Box, blind: Node) -> None:
    """A service's affinity is no other's, though they have the same backends."""
    set_service(blind, "1h")
    for n in range(8):
        blind.services.add(Service.of(f"10.96.2.{n}:53/udp", *backends(MANY), affinity="1h"))

    def all_of() -> list[str]:
        return [choose_one((f"10.96.2.{n}", 53)) for n in range(8)]

    (first,) = box.call(choose, 3)
    others = box.call(all_of)
    blind.services.remove_backend(FRONTEND, first)
    assert box.call(all_of) == others
