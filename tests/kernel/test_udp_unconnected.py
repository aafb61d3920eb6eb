# SPDX-License-Identifier: Apache-2.0
"""Unconnected UDP: one socket, many services, each answer shown with its service's address."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from itertools import cycle, islice
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, linux
from .harness.clients import (
    FAMILIES,
    MAPPED,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    fresh_payload,
    limit_waits,
    new_socket,
    outcome,
    raw_sockaddr_in,
    receive,
    refusals,
)

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
PORT = 53


def serve(box: Box, family: Family, count: int) -> list[str]:
    servers = [family.endpoint(family.backend(2 + n), 8053) for n in range(count)]
    box.serve(*(f"{server}/udp" for server in servers))
    return servers


def add(node: Node, family: Family, number: int, *backends: str) -> tuple[str, int]:
    """A service on vip(number); returns the address that a client gives."""
    frontend = f"{family.endpoint(family.vip(number), PORT)}/udp"
    node.services.add(Service.of(frontend, *backends))
    return family.sockaddr(family.vip(number), PORT)


@pytest.mark.parametrize("count", [2, 8], ids=lambda count: f"{count}-services")
@FAMILY
def test_several_services_from_one_socket(box: Box, node: Node, family: Family, count: int) -> None:
    """Each its own backend; in any order, with the answers fetched late."""
    servers = serve(box, family, count)
    vips = [add(node, family, n, server) for n, server in enumerate(servers, 1)]

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            for _ in range(2):
                for vip, server in zip(vips, servers, strict=True):
                    assert ask(client, vip) == Seen(server, vip)
            for vip in reversed(vips):
                client.sendto(b"late", vip)
            answers = {receive(client) for _ in vips}
        by_server = {answer.decode().split()[0]: source[:2] for answer, source in answers}
        assert by_server == dict(zip(servers, vips, strict=True))

    box.call(converse)
    assert node.status().overflowed == 0


@pytest.mark.parametrize(
    ("count", "overflowed"), [(24, 0), (72, 40)], ids=["in-storage", "and-in-the-lru"]
)
@FAMILY
def test_many_services_of_one_socket(
    box: Box, node: Node, family: Family, count: int, overflowed: int
) -> None:
    """A socket remembers 32; beyond that the LRU takes over: still right, and counted.

    Where sockets remember nothing, that is no overflow.
    """
    if not kernel.remembers_on_sockets():
        overflowed = 0
    servers = list(islice(cycle(serve(box, family, 24)), count))
    vips = [add(node, family, n, server) for n, server in enumerate(servers, 1)]

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            for _ in range(3):
                for vip, server in zip(vips, servers, strict=True):
                    assert ask(client, vip) == Seen(server, vip)
            for vip, server in zip(vips, servers, strict=True):
                direct = family.sockaddr(server.rpartition(":")[0].strip("[]"), 8053)
                assert ask(client, direct) == Seen(server, direct)
                assert ask(client, vip) == Seen(server, vip)

    before = node.status().overflowed
    box.call(converse)
    counted = node.status().overflowed - before
    assert (counted > 0) == (overflowed > 0)
    assert counted >= overflowed


@FAMILY
def test_overflow_keeps_backends(box: Box, node: Node, family: Family) -> None:
    servers = serve(box, family, 8)
    vips = [add(node, family, n, *servers) for n in range(1, 81)]

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            first = [ask(client, vip).server for vip in vips]
            for _ in range(3):
                assert [ask(client, vip).server for vip in vips] == first

    box.call(converse)


@FAMILY
def test_keeps_its_backend_across_changes(box: Box, node: Node, family: Family) -> None:
    """While the backend is usable, whatever happens to the others; a new one afterwards."""
    servers = serve(box, family, 10)
    vip = add(node, family, 10, *servers[:8])
    frontend = f"{family.endpoint(family.vip(10), PORT)}/udp"

    def converse(test: Line) -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            while test.recv():
                seen = {ask(client, vip) for _ in range(10)}
                ((server, shown),) = seen
                assert shown == vip
                test.send(server)

    with box.talk(converse) as client:
        kept = client.ask("where?")
        others = [server for server in servers if server != kept]
        node.services.add_backend(frontend, servers[8])
        assert client.ask("where?") == kept
        node.services.remove_backend(frontend, next(s for s in others if s in servers[:8]))
        assert client.ask("where?") == kept
        node.services.set_backend(frontend, f"{kept},weight=9")
        assert client.ask("where?") == kept
        node.services.set(Service.of(frontend, *others[-3:], kept, name="renamed"))
        assert client.ask("where?") == kept
        node.services.set_backend(frontend, f"{kept},weight=0")
        assert client.ask("where?") in servers
        node.services.set(Service.of(frontend, *others))
        assert client.ask("where?") in others
        node.services.remove(frontend)
        node.services.add(Service.of(frontend, *others))
        assert client.ask("where?") in others
        client.send("")


@FAMILY
def test_loses_its_backend_and_has_no_other(box: Box, node: Node, family: Family) -> None:
    servers = serve(box, family, 2)
    vip = add(node, family, 10, servers[0])
    frontend = f"{family.endpoint(family.vip(10), PORT)}/udp"

    def converse(test: Line) -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            refused = refusals()[UDP_UNCONNECTED]
            for expected in (Seen(servers[0], vip), refused, Seen(servers[1], vip)):
                assert outcome(ask, client, vip) == expected
                test.ask()

    with box.talk(converse) as client:
        for backends in ((), (servers[1],)):
            client.recv()
            node.services.set(Service.of(frontend, *backends))
            client.send()
        client.recv()
        client.send()


@FAMILY
def test_two_services_share_a_backend(box: Box, node: Node, family: Family) -> None:
    """The last one sent to names it; another socket has its own memory."""
    (server,) = serve(box, family, 1)
    vips = [add(node, family, n, server) for n in (10, 11)]

    def converse() -> None:
        with (
            new_socket(family, UDP_UNCONNECTED) as client,
            new_socket(family, UDP_UNCONNECTED) as other,
        ):
            for vip in (*vips, *vips, *reversed(vips)):
                assert ask(client, vip) == Seen(server, vip)
            assert ask(other, vips[0]).peer == vips[0]
            assert ask(client, vips[1]).peer == vips[1]
            assert ask(other, vips[0]).peer == vips[0]

    box.call(converse)


@FAMILY
def test_direct_sends_between(box: Box, node: Node, family: Family) -> None:
    """Straight to the backend: shown as itself. To the service again: as before, same backend."""
    servers = serve(box, family, 8)
    vip = add(node, family, 10, *servers)

    def converse() -> None:
        for _ in range(3):
            with new_socket(family, UDP_UNCONNECTED) as client:
                first = ask(client, vip)
                host = first.server.rpartition(":")[0].strip("[]")
                direct = family.sockaddr(host, 8053)
                assert ask(client, direct) == Seen(first.server, direct)
                assert ask(client, vip) == first
                assert ask(client, direct) == Seen(first.server, direct)
                assert ask(client, vip) == first

    box.call(converse)


@FAMILY
def test_many_messages_by_one_call(box: Box, node: Node, family: Family) -> None:
    """sendmmsg: each message its own destination; a refusal stops it with the count so far.

    Where the kernel cannot refuse a send, that message alone is lost.
    """
    servers = serve(box, family, 2)
    vips = [add(node, family, n, server) for n, server in enumerate(servers, 10)]
    empty = add(node, family, 12)

    def raw(address: tuple[str, int]) -> bytes:
        host, port = address
        if family is V4:
            return raw_sockaddr_in(host, port)
        packed = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, packed, 0)

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            messages = [(b"%d" % n, raw(vips[n % 2])) for n in range(6)]
            assert linux.sendmmsg(client.fileno(), list(messages)) == 6
            answers = sorted(receive(client) for _ in messages)
            assert [(answer, source[:2]) for answer, source in answers] == sorted(
                (f"{servers[n % 2]} {n}".encode(), vips[n % 2]) for n in range(6)
            )
            messages[2] = (b"nobody", raw(empty))
            refuses = kernel.refuses_at_once()
            sent = linux.sendmmsg(client.fileno(), list(messages))
            assert sent == (2 if refuses else 6)
            for _ in range(2 if refuses else 5):
                assert receive(client)[1][:2] in vips
            if refuses:
                assert outcome(linux.sendmmsg, client.fileno(), messages[2:]) == "ECONNREFUSED"

    box.call(converse)


@FAMILY
def test_messages_received_without_a_name(box: Box, node: Node, family: Family) -> None:
    """recv, and read, ask for no source: no hook runs, and the data is the data."""
    (server,) = serve(box, family, 1)
    vip = add(node, family, 10, server)

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            fetches: list[Callable[[], bytes]] = [
                lambda: client.recv(100),
                lambda: os.read(client.fileno(), 100),
                lambda: client.recvmsg(100)[0],
            ]
            for fetch in fetches:
                payload = fresh_payload()
                client.sendto(payload.encode(), vip)
                assert fetch().decode() == f"{server} {payload}"
            client.sendto(b"peek", vip)
            peeked = client.recvfrom(100, socket.MSG_PEEK)
            assert peeked == client.recvfrom(100)
            assert peeked[1][:2] == vip

    box.call(converse)


@FAMILY
def test_datagrams_from_strangers(box: Box, node: Node, family: Family) -> None:
    """What arrives unasked, also from a backend's host or port, shows who sent it."""
    (server,) = serve(box, family, 1)
    vip = add(node, family, 10, server)

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            assert ask(client, vip).peer == vip
            for number, port in ((2, 8054), (3, 8053)):
                stranger = family.sockaddr(family.backend(number), port)
                with new_socket(family, UDP_UNCONNECTED) as sender:
                    sender.bind(stranger)
                    own = family.sockaddr(family.backend(1), client.getsockname()[1])
                    sender.sendto(b"unasked", own)
                    assert receive(client)[1][:2] == stranger

    box.call(converse)


@pytest.mark.parametrize("family", [V4, V6], ids=str)
def test_udplite_by_sendmsg(box: Box, node: Node, family: Family) -> None:
    """Its connect has no hook (a stated limit), its sendmsg has: a UDP service's datagrams."""
    backend = family.sockaddr(family.backend(2), 8053)
    vip = add(node, family, 10, family.endpoint(*backend))

    def converse() -> object:
        try:
            server = socket.socket(family.af, socket.SOCK_DGRAM, linux.IPPROTO_UDPLITE)
        except OSError:
            return None
        client = socket.socket(family.af, socket.SOCK_DGRAM, linux.IPPROTO_UDPLITE)
        with server, client:
            for end in (server, client):
                limit_waits(end)
            server.bind(backend)
            client.sendto(b"hello", vip)
            asked, source = server.recvfrom(100)
            server.sendto(asked, source)
            return client.recvfrom(100)[1][:2]

    shown = box.call(converse)
    if shown is None:
        pytest.skip("this kernel has no UDP-Lite")
    assert shown == vip


def test_one_ipv6_socket_for_both_families(box: Box, node: Node) -> None:
    """A resolver's socket: IPv4 and IPv6 services side by side."""
    servers = {family: f"{family.endpoint(family.backend(2), 8053)}" for family in (V4, V6)}
    box.serve(*(f"{server}/udp" for server in servers.values()))
    vips = {
        MAPPED: ("::ffff:" + add(node, V4, 10, servers[V4])[0], PORT),
        V6: add(node, V6, 10, servers[V6]),
    }

    def converse() -> None:
        with new_socket(V6, UDP_UNCONNECTED) as client:
            for _ in range(3):
                assert ask(client, vips[MAPPED]) == Seen(servers[V4], vips[MAPPED])
                assert ask(client, vips[V6]) == Seen(servers[V6], vips[V6])

    box.call(converse)


def test_ping_sockets_are_untouched(box: Box, node: Node) -> None:
    """ICMP datagram sockets run connect4 too, and are no UDP."""
    for protocol in ("tcp", "udp"):
        node.services.add(Service.of(f"10.0.0.2:7/{protocol}"))
        node.services.add(Service.of(f"[fd00::2]:7/{protocol}"))

    def ping(af: int, protocol: int, kind: int, host: str) -> object:
        with socket.socket(af, socket.SOCK_DGRAM, protocol) as client:
            limit_waits(client)
            client.connect((host, 7))
            peer = client.getpeername()[:2]
            client.send(struct.pack("!BBHHH", kind, 0, 0, 1, 1))
            answer, source = client.recvfrom(100)
            return peer, answer[0], source[:2]

    for case in (
        (socket.AF_INET, socket.IPPROTO_ICMP, 8, "10.0.0.2"),
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, "fd00::2"),
    ):
        with_hooks = box.call(outcome, ping, *case)
        assert with_hooks == box.call(outcome, ping, *case, bare=True)
        assert isinstance(with_hooks, tuple), with_hooks
