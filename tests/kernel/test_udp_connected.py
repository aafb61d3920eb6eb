# SPDX-License-Identifier: Apache-2.0
"""Connected UDP sockets: connecting again, disconnecting, and sends that name an address."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, Servers, kernel, linux
from .harness.clients import (
    FAMILIES,
    LOST,
    MAPPED,
    RAW_UNSPEC,
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

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
PORT = 53
BACKENDS = 8  # so that a new choice differs from the old one 7 times of 8


class Place:
    """Two services with BACKENDS servers each, and one more server without a service."""

    def __init__(self, box: Box, node: Node, family: Family) -> None:
        endpoints = [family.endpoint(family.backend(n), 8053) for n in range(2, 3 + 2 * BACKENDS)]
        self.first, self.second = endpoints[:BACKENDS], endpoints[BACKENDS:-1]
        self.lone_server = endpoints[-1]
        self.servers: Servers = box.serve(*(f"{endpoint}/udp" for endpoint in endpoints))
        for number, backends in ((10, self.first), (11, self.second)):
            frontend = f"{family.endpoint(family.vip(number), PORT)}/udp"
            node.services.add(Service.of(frontend, *backends))
        self.vip = family.sockaddr(family.vip(10), PORT)
        self.other_vip = family.sockaddr(family.vip(11), PORT)
        self.lone = family.sockaddr(family.backend(2 + 2 * BACKENDS), 8053)
        self.family = family

    def direct(self, server: str) -> tuple[str, int]:
        return self.family.sockaddr_of(server)

    def shown(self, server: str) -> tuple[str, int]:
        """The peer's address, of a socket that the first service sent to this server."""
        return kernel.shown(self.vip, self.direct(server))

    def queue_answer(self, client: socket.socket) -> str:
        """Connected to the first service; which server's answer waits to be received."""
        connect(client, self.vip)
        payload = fresh_payload()
        client.send(payload.encode())
        return self.servers.wait_for(payload)

    def once_connected(self, server: str) -> Seen:
        """Asked straight, after connect(AF_UNSPEC), by a socket that the first service sent there.

        Where no hook sees what a socket is connected to, it still is shown the service.
        """
        knows = kernel.remembers_on_sockets()
        return Seen(server, self.direct(server) if knows else self.vip)


@FAMILY
def test_stays_with_its_backend(box: Box, node: Node, family: Family) -> None:
    place = Place(box, node, family)

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
    place = Place(box, node, family)

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
def test_disconnected_then_straight_to_the_backend(box: Box, node: Node, family: Family) -> None:
    """No hook runs on connect(AF_UNSPEC): what the socket remembers must not lie afterwards."""
    place = Place(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            server = ask(client).server
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            assert outcome(client.getpeername) == "ENOTCONN"
            assert ask(client, place.direct(server)) == place.once_connected(server)
            connect(client, place.vip)
            seen = ask(client)
            assert client.getpeername()[:2] == place.shown(seen.server)
            assert seen.peer == place.vip

    box.call(converse)


@FAMILY
def test_disconnected_then_to_the_service_again(box: Box, node: Node, family: Family) -> None:
    """An IPv6 socket still hears nobody but its former peer, so that is where it must be sent."""
    place = Place(box, node, family)

    def converse() -> None:
        for _ in range(3):
            with new_socket(family, UDP_CONNECTED) as client:
                connect(client, place.vip)
                first = ask(client)
                linux.connect_raw(client.fileno(), RAW_UNSPEC)
                for _ in range(3):
                    seen = ask(client, place.vip)
                    assert seen.peer == place.vip
                    assert seen.server in place.first
                direct = place.direct(seen.server)
                assert ask(client, direct) == place.once_connected(seen.server)
                assert ask(client, place.vip) == seen
                assert first.peer == place.vip

    box.call(converse)


@pytest.mark.parametrize("family", [V4, MAPPED], ids=str)
def test_disconnected_then_elsewhere(box: Box, node: Node, family: Family) -> None:
    place = Place(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            server = ask(client).server
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            for _ in range(2):
                assert ask(client, place.other_vip).peer == place.other_vip
                assert ask(client, place.lone) == Seen(place.lone_server, place.lone)
                assert ask(client, place.direct(server)) == place.once_connected(server)
                assert ask(client, place.vip).peer == place.vip

    box.call(converse)


@FAMILY
def test_disconnected_then_connected_straight_to_the_backend(
    box: Box, node: Node, family: Family
) -> None:
    place = Place(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            server = ask(client).server
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            connect(client, place.direct(server))
            assert client.getpeername()[:2] == place.direct(server)
            assert ask(client) == Seen(server, place.direct(server))

    box.call(converse)


@FAMILY
def test_answer_queued_before_the_disconnect(box: Box, node: Node, family: Family) -> None:
    """Whatever is shown is the service or the backend, and later sends are shown rightly."""
    place = Place(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            server = place.queue_answer(client)
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            source = receive(client)[1][:2]
            assert source in (place.vip, place.direct(server))
            assert ask(client, place.direct(server)) == place.once_connected(server)

    box.call(converse)


@FAMILY
def test_answer_queued_before_the_next_connect(box: Box, node: Node, family: Family) -> None:
    """It is the former service's, though the socket is another one's by now."""
    place = Place(box, node, family)

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
    place = Place(box, node, family)

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
    place = Place(box, node, family)
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
    place = Place(box, node, family)

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
    place = Place(box, node, family)

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
    place = Place(box, node, family)
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
    place = Place(box, node, family)
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
    place = Place(box, node, family)
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
    place = Place(box, node, V4)
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


@FAMILY
def test_unconnected_use_before_the_connect(box: Box, node: Node, family: Family) -> None:
    place = Place(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            early = ask(client, place.vip)
            connect(client, place.vip)
            connected = {ask(client) for _ in range(10)}
            assert len(connected) == 1
            assert connected.pop().peer == place.vip
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            if family is V6:
                return  # hears nobody but its former peer, with or without hostreach
            late = {ask(client, place.vip) for _ in range(10)}
            assert late == {early}, "an unconnected socket keeps its backend"

    box.call(converse)


def test_direct_and_service_sockets_side_by_side(box: Box, node: Node) -> None:
    """What one socket remembers says nothing about another."""
    place = Place(box, node, V4)
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
