# SPDX-License-Identifier: Apache-2.0
"""A client of a service reaches a backend and sees the service; all else is as it was."""

from __future__ import annotations

import errno
import itertools
import socket
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Service

from .harness import Box, Line, kernel
from .harness.clients import (
    FAMILIES,
    KINDS,
    LOST,
    MAPPED,
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
)

if TYPE_CHECKING:
    from hostreach.node import Node

PORT = 53
BACKEND_PORT = 8053
BLOCKING = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "nonblocking"])
FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
KIND = pytest.mark.parametrize("kind", KINDS)


def serve(box: Box, node: Node, family: Family, protocol: str, count: int = 1) -> list[str]:
    """A service on vip():PORT before `count` identity servers; returns the servers."""
    servers = [family.endpoint(family.backend(2 + n), BACKEND_PORT) for n in range(count)]
    box.serve(*(f"{server}/{protocol}" for server in servers))
    frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol}"
    node.services.add(Service.of(frontend, *servers))
    return servers


@BLOCKING
@KIND
@FAMILY
def test_client_sees_the_service(
    box: Box, node: Node, family: Family, kind: str, blocking: bool
) -> None:
    servers = serve(box, node, family, protocol_of(kind), count=3)
    vip = family.sockaddr(family.vip(), PORT)
    for _ in range(3):
        seen = box.call(exchange, family, kind, vip, blocking)
        assert seen.server in servers
        assert seen.peer == vip


@KIND
@FAMILY
def test_other_cgroups_are_untouched(box: Box, node: Node, family: Family, kind: str) -> None:
    serve(box, node, family, protocol_of(kind))
    vip = family.sockaddr(family.vip(), PORT)
    assert box.call(outcome, exchange, family, kind, vip, bare=True) == "ENETUNREACH"


def untouched_cases() -> list[tuple[str, str, int]]:
    """(name, host with {vip} and {backend}, port)."""
    return [
        ("other-port-of-vip", "{vip}", PORT + 1),
        ("other-vip", "{other}", PORT),
        ("backend-itself", "{backend}", BACKEND_PORT),
        ("closed-port", "{backend}", BACKEND_PORT + 1),
        ("port-zero", "{vip}", 0),
        ("swapped-port-bytes", "{vip}", socket.htons(PORT)),
    ]


@pytest.mark.parametrize("case", untouched_cases(), ids=lambda case: case[0])
@FAMILY
def test_misses_are_untouched(
    box: Box, node: Node, family: Family, case: tuple[str, str, int]
) -> None:
    """Same result and same errno as in a cgroup without hostreach, for every kind of socket."""
    for protocol in ("tcp", "udp"):
        serve(box, node, family, protocol)
    _, template, port = case
    host = template.format(vip=family.vip(), other=family.vip(11), backend=family.backend(2))
    address = family.sockaddr(host, port)

    # An unconnected socket never learns that a port is closed.
    kinds = KINDS[:2] if case[0] == "closed-port" else KINDS

    def try_all() -> list[object]:
        return [
            outcome(exchange, family, kind, address, blocking)
            for kind in kinds
            for blocking in (True, False)
        ]

    assert box.call(try_all) == box.call(try_all, bare=True)


@pytest.mark.parametrize("present", ["tcp", "udp"])
@FAMILY
def test_protocol_is_part_of_the_key(box: Box, node: Node, family: Family, present: str) -> None:
    (server,) = serve(box, node, family, present)
    vip = family.sockaddr(family.vip(), PORT)
    for kind in KINDS:
        expected = Seen(server, vip) if protocol_of(kind) == present else "ENETUNREACH"
        assert box.call(outcome, exchange, family, kind, vip) == expected


@FAMILY
def test_tcp_and_udp_on_one_port_are_two_services(box: Box, node: Node, family: Family) -> None:
    vip = family.sockaddr(family.vip(), PORT)
    servers = {}
    for number, protocol in enumerate(("tcp", "udp"), 2):
        servers[protocol] = family.endpoint(family.backend(number), BACKEND_PORT)
        box.serve(f"{servers[protocol]}/{protocol}")
        frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol}"
        node.services.add(Service.of(frontend, servers[protocol]))
    for kind in KINDS:
        seen = box.call(exchange, family, kind, vip)
        assert seen.server == servers[protocol_of(kind)]


@FAMILY
def test_removed_service_is_untouched_again(box: Box, node: Node, family: Family) -> None:
    serve(box, node, family, "udp")
    vip = family.sockaddr(family.vip(), PORT)
    frontend = f"{family.endpoint(family.vip(), PORT)}/udp"
    assert box.call(exchange, family, UDP_UNCONNECTED, vip).peer == vip
    node.services.remove(frontend)
    for kind in (UDP_CONNECTED, UDP_UNCONNECTED):
        assert box.call(outcome, exchange, family, kind, vip) == "ENETUNREACH"


def test_v4_mapped_and_ipv4_clients_share_one_service(box: Box, node: Node) -> None:
    servers = serve(box, node, V4, "udp")
    for family, kind in itertools.product((V4, MAPPED), (UDP_CONNECTED, UDP_UNCONNECTED)):
        vip = family.sockaddr(V4.vip(), PORT)
        assert box.call(exchange, family, kind, vip) == Seen(servers[0], vip)


@pytest.mark.parametrize("backends", ["none", "weightless"])
@BLOCKING
@FAMILY
def test_no_usable_backend_refuses(
    box: Box, node: Node, family: Family, backends: str, blocking: bool
) -> None:
    """ECONNREFUSED, from connect and from both sendto and sendmsg, at once.

    Where the kernel has no way to say so, TCP's connect does all the same once it is done,
    connected UDP's second send says it, and unconnected datagrams are lost.
    """
    weightless = f"{family.endpoint(family.backend(2), BACKEND_PORT)},weight=0"
    for protocol in ("tcp", "udp"):
        frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol}"
        node.services.add(Service.of(frontend, *[weightless] * (backends == "weightless")))
    vip = family.sockaddr(family.vip(), PORT)

    def try_all() -> list[object]:
        found: list[object] = []
        for kind in (TCP, UDP_CONNECTED):
            with new_socket(family, kind, blocking=blocking) as client:
                if kernel.refuses_at_once():
                    found.append(errno.errorcode[client.connect_ex(vip)])
                    continue
                found.append(outcome(connect, client, vip))
                if kind == UDP_CONNECTED:
                    found += [outcome(client.send, b"x") for _ in range(2)]
        with new_socket(family, UDP_UNCONNECTED, blocking=blocking) as client:
            found.append(outcome(client.sendto, b"x", vip))
            found.append(outcome(client.sendmsg, [b"x"], [], 0, vip))
        return found

    def lost() -> object:
        with new_socket(family, UDP_UNCONNECTED, blocking=blocking) as client:
            return outcome(ask, client, vip)

    if kernel.refuses_at_once():
        assert box.call(try_all) == ["ECONNREFUSED"] * 4
    else:
        # sent by the IPv4 hooks' way, port 0 is no address
        sends = ["EINVAL"] * 2 if family is MAPPED else [1, "ECONNREFUSED"]
        assert box.call(try_all) == ["ECONNREFUSED", None, *sends, 1, 1]
        assert box.call(lost) == LOST
    for protocol in ("tcp", "udp"):
        frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol}"
        box.serve(f"{family.endpoint(family.backend(2), BACKEND_PORT)}/{protocol}")
        node.services.set(Service.of(frontend, family.endpoint(family.backend(2), BACKEND_PORT)))
    for kind in KINDS:
        assert box.call(exchange, family, kind, vip).peer == vip


@FAMILY
def test_weight_zero_gets_nothing(box: Box, node: Node, family: Family) -> None:
    servers = [family.endpoint(family.backend(2 + n), BACKEND_PORT) for n in range(3)]
    box.serve(*(f"{server}/udp" for server in servers))
    frontend = f"{family.endpoint(family.vip(), PORT)}/udp"
    node.services.add(Service.of(frontend, servers[0], f"{servers[1]},weight=0", servers[2]))
    vip = family.sockaddr(family.vip(), PORT)

    def reached() -> set[str]:
        return {exchange(family, UDP_UNCONNECTED, vip).server for _ in range(100)}

    assert box.call(reached) == {servers[0], servers[2]}


def test_backend_port_may_differ_and_may_be_shared(box: Box, node: Node) -> None:
    box.serve("10.0.0.2:8000/tcp", "10.0.0.2:8001/tcp", "10.0.0.2:80/tcp")
    node.services.add(Service.of("10.96.0.1:80/tcp", "10.0.0.2:8000"))
    node.services.add(Service.of("10.96.0.1:81/tcp", "10.0.0.2:8001"))
    node.services.add(Service.of("10.96.0.2:80/tcp", "10.0.0.2:80"))
    for vip, server in (
        (("10.96.0.1", 80), "10.0.0.2:8000"),
        (("10.96.0.1", 81), "10.0.0.2:8001"),
        (("10.96.0.2", 80), "10.0.0.2:80"),
    ):
        assert box.call(exchange, V4, TCP, vip) == Seen(server, vip)


def test_a_backend_may_be_another_service_address(box: Box, node: Node) -> None:
    """One translation for one call: no chains, no loops."""
    box.serve("10.0.0.2:80/tcp", "10.0.0.3:80/tcp")
    node.services.add(Service.of("10.96.0.1:80/tcp", "10.0.0.2:80"))
    node.services.add(Service.of("10.0.0.2:80/tcp", "10.0.0.3:80"))
    assert box.call(exchange, V4, TCP, ("10.96.0.1", 80)).server == "10.0.0.2:80"
    assert box.call(exchange, V4, TCP, ("10.0.0.2", 80)).server == "10.0.0.3:80"


@FAMILY
def test_descriptors_shared_by_dup_and_fork(box: Box, node: Node, family: Family) -> None:
    (server,) = serve(box, node, family, "udp")
    vip = family.sockaddr(family.vip(), PORT)

    def converse() -> None:
        client = new_socket(family, UDP_CONNECTED)
        connect(client, vip)
        with client.dup() as copy:
            client.close()
            assert copy.getpeername()[:2] == kernel.shown(vip, family.sockaddr_of(server))
            assert ask(copy) == Seen(server, vip)
            assert box.call(lambda: ask(copy)) == Seen(server, vip)
            assert ask(copy) == Seen(server, vip)

    box.call(converse)


def test_attached_while_sockets_live(box: Box) -> None:
    """Connections from before, and those that outlive a detach, go on."""
    box.serve("10.0.0.2:80/tcp")

    def converse(test: Line) -> None:
        with new_socket(V4, TCP) as early, new_socket(V4, TCP) as late:
            connect(early, ("10.0.0.2", 80))
            assert line(early) == "10.0.0.2:80"
            assert test.ask("connected") == "attached"
            assert early.getpeername() == ("10.0.0.2", 80)
            connect(late, ("10.96.0.1", 80))
            assert late.getpeername() == kernel.shown(("10.96.0.1", 80), ("10.0.0.2", 80))
            assert test.ask("connected") == "detached"
            assert late.getpeername() == ("10.0.0.2", 80)
            assert line(late) == "10.0.0.2:80"
            for client in (early, late):
                client.send(b"still here\n")
                assert line(client) == "still here"

    with hostreach.open(str(box.pin)) as node, box.talk(converse) as client:
        assert client.recv() == "connected"
        node.attach(cgroup=str(box.cgroup))
        node.services.add(Service.of("10.96.0.1:80/tcp", "10.0.0.2:80"))
        assert client.ask("attached") == "connected"
        node.detach()
        client.send("detached")
