# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets: connecting again, failed connects, and sends that name an address."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, linux
from .harness.clients import (
    FAMILIES,
    LOST,
    MAPPED,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    connect,
    exchange,
    fresh_payload,
    new_socket,
    outcome,
    raw_sockaddr_in,
    receive,
)
from .harness.two_services import PORT, TwoServices

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)


@FAMILY
def test_stays_with_its_backend(box: Box, node: Node, family: Family) -> None:
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            seen = {ask(client) for _ in range(30)}
            assert len(seen) == 1
            assert seen.pop().peer == place.vip

    box.call(converse)


@FAMILY
def test_connects_again_elsewhere(box: Box, node: Node, family: Family) -> None:
    """To another service, to a plain address, to the first service: each shown as itself."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            for address, servers in (
                (place.vip, place.first),
                (place.other_vip, place.second),
                (place.lone, [place.lone_server]),
                (place.vip, place.first),
                (place.direct(place.first[0]), place.first[:1]),
                (place.vip, place.first),
            ):
                connect(client, address)
                seen = ask(client)
                shown = kernel.shown(address, place.direct(seen.server))
                assert client.getpeername()[:2] == shown
                assert seen.peer == address
                assert seen.server in servers

    box.call(converse)


@FAMILY
def test_answer_queued_before_the_next_connect(box: Box, node: Node, family: Family) -> None:
    """It is the former service's, though the socket is another one's by now."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            place.queue_answer(client)
            connect(client, place.other_vip)
            assert receive(client)[1][:2] == place.vip
            assert ask(client).peer == place.other_vip

    box.call(converse)


@FAMILY
def test_naming_the_connected_service(box: Box, node: Node, family: Family) -> None:
    """sendto with the service's address on a socket connected to it: its connected backend."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            first = ask(client)
            assert {ask(client, place.vip) for _ in range(30)} == {first}
            assert ask(client) == first

    box.call(converse)


@FAMILY
def test_naming_the_connected_service_after_a_set(box: Box, node: Node, family: Family) -> None:
    """Connected is connected: only the socket's owner moves it, not a change of backends.

    Where no hook sees the peer, a send that names the service leaves for a new backend, whose
    answer the kernel drops.
    """
    place = TwoServices(box, node, family)
    frontend = f"{family.endpoint(family.vip(10), PORT)}/udp"

    def converse(test: Line) -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            first = ask(client)
            test.ask(first.server)
            assert {ask(client) for _ in range(10)} == {first}
            if kernel.remembers_on_sockets():
                assert {ask(client, place.vip) for _ in range(10)} == {first}
            else:
                payload = fresh_payload()
                client.sendto(payload.encode(), place.vip)
                assert place.servers.wait_for(payload) in {*place.first} - {first.server}
                assert ask(client) == first
            assert client.getpeername()[:2] == place.shown(first.server)

    with box.talk(converse) as client:
        server = client.recv()
        others = [backend for backend in place.first if backend != server]
        node.services.set(Service.of(frontend, *others, on_removal="keep"))
        client.send()


@FAMILY
def test_naming_another_address(box: Box, node: Node, family: Family) -> None:
    """sendto elsewhere on a connected socket goes there; its answers the kernel drops."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            first = ask(client)
            for address, servers in (
                (place.other_vip, place.second),
                (place.lone, [place.lone_server]),
            ):
                payload = fresh_payload()
                client.sendto(payload.encode(), address)
                assert place.servers.wait_for(payload) in servers
                assert ask(client) == first
                assert client.getpeername()[:2] == place.shown(first.server)

    box.call(converse)


@FAMILY
def test_naming_the_backend(box: Box, node: Node, family: Family) -> None:
    """Connected to the service: the peer's answers are the service's, however it was named."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            first = ask(client)
            assert ask(client, place.direct(first.server)) == first
            assert ask(client) == first

    box.call(converse)


@FAMILY
def test_connected_straight_to_a_backend(box: Box, node: Node, family: Family) -> None:
    """Nobody asked for the service, so nobody sees it; a v4-mapped peer runs sendmsg4 here."""
    place = TwoServices(box, node, family)
    server = place.first[0]
    direct = place.direct(server)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, direct)
            for _ in range(3):
                assert ask(client) == Seen(server, direct)
            payload = fresh_payload()
            client.sendto(payload.encode(), place.vip)
            assert place.servers.wait_for(payload) in place.first
            assert client.getpeername()[:2] == direct

    box.call(converse)


@FAMILY
@pytest.mark.parametrize("target", ["service", "plain"])
def test_failed_connect_keeps_the_peer(box: Box, node: Node, family: Family, target: str) -> None:
    """A UDP connect without a route fails after the hook, and the old peer stays."""
    place = TwoServices(box, node, family)
    unroutable = {V6: "fd00:77::1"}.get(family, "10.77.0.1")
    frontend = f"{family.endpoint(family.vip(12), PORT)}/udp"
    node.services.add(Service.of(frontend, family.endpoint(unroutable, 8053)))
    host = family.vip(12) if target == "service" else unroutable
    address = family.sockaddr(host, PORT)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            first = ask(client)
            assert client.connect_ex(address) == errno.ENETUNREACH
            assert client.getpeername()[:2] == place.shown(first.server)
            assert ask(client) == first

    box.call(converse)


@FAMILY
def test_refused_connect_keeps_the_peer(box: Box, node: Node, family: Family) -> None:
    """Where the kernel cannot refuse it, the peer is lost, and the second send says so."""
    place = TwoServices(box, node, family)
    node.services.add(Service.of(f"{family.endpoint(family.vip(12), PORT)}/udp"))
    empty = family.sockaddr(family.vip(12), PORT)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            first = ask(client)
            if kernel.refuses_at_once():
                assert client.connect_ex(empty) == errno.ECONNREFUSED
                assert client.getpeername()[:2] == place.shown(first.server)
                assert ask(client) == first
                assert outcome(client.sendto, b"x", empty) == "ECONNREFUSED"
            else:
                assert outcome(ask, client, empty) == LOST
                assert ask(client) == first
                assert client.connect_ex(empty) == 0
                assert outcome(client.getpeername) == "ENOTCONN"
                # sent by the IPv4 hooks' way, port 0 is no address
                sends = ["EINVAL"] * 2 if family is MAPPED else [1, "ECONNREFUSED"]
                assert [outcome(client.send, b"x") for _ in range(2)] == sends
                connect(client, place.vip)
                first = ask(client)

    box.call(converse)


@FAMILY
def test_closed_backend_answers_with_refusal(box: Box, node: Node, family: Family) -> None:
    """The ICMP error of a closed port reaches the connected socket as without hostreach."""
    frontend = f"{family.endpoint(family.vip(), PORT)}/udp"
    node.services.add(Service.of(frontend, family.endpoint(family.backend(2), 9)))
    vip = family.sockaddr(family.vip(), PORT)

    def converse() -> object:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, vip)
            client.send(b"anyone?")
            return outcome(client.recv, 100)

    assert box.call(converse) == "ECONNREFUSED"


def test_ipv4_sockaddr_on_an_ipv6_socket(box: Box, node: Node) -> None:
    """connect and sendto with struct sockaddr_in on AF_INET6: the kernel runs the IPv4 hooks."""
    place = TwoServices(box, node, V4)
    shown = ("::ffff:10.96.0.10", PORT)
    raw = raw_sockaddr_in("10.96.0.10", PORT)

    def converse() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            linux.connect_raw(client.fileno(), raw)
            first = ask(client)
            given = MAPPED.sockaddr_of(first.server)
            assert client.getpeername()[:2] == kernel.shown(shown, given)
            assert first.peer == shown
            assert first.server in place.first
            payload = fresh_payload()
            linux.sendto_raw(client.fileno(), payload.encode(), raw)
            answer, source = receive(client)
            assert source[:2] == shown
            assert answer.decode() == f"{first.server} {payload}"
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            for _ in range(3):
                linux.sendto_raw(client.fileno(), b"unconnected", raw)
                assert receive(client)[1][:2] == shown

    box.call(converse)


def test_direct_and_service_sockets_side_by_side(box: Box, node: Node) -> None:
    """What one socket remembers says nothing about another."""
    place = TwoServices(box, node, V4)
    node.services.set(Service.of("10.96.0.10:53/udp", place.first[0]))

    def converse() -> None:
        with new_socket(V4, UDP_CONNECTED) as one, new_socket(V4, UDP_CONNECTED) as two:
            connect(one, place.vip)
            connect(two, place.direct(place.first[0]))
            for _ in range(3):
                assert ask(one).peer == place.vip
                assert ask(two).peer == place.direct(place.first[0])
        assert exchange(V4, UDP_UNCONNECTED, place.direct(place.first[0])).peer[0] == "10.0.0.2"

    box.call(converse)
