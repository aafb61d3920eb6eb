# SPDX-License-Identifier: Apache-2.0
"""NodePorts: one service by every name of this node, beside other services and servers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Service

from .harness import Box, kernel
from .harness.clients import (
    KINDS,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    exchange,
    new_socket,
    outcome,
    protocol_of,
    refusals,
)
from .harness.host import HOST_V4, HOST_V6, PORT, attach_inside
from .harness.node_ways import (
    BACKENDS,
    TYPES,
    WAYS,
    add,
    by_way,
    refused,
    serve_backends,
    try_all,
    try_ways,
    ways,
)

if TYPE_CHECKING:
    from hostreach.node import Node


def test_reached(box: Box, host: Node) -> None:
    """By every name that the node has; what was asked for is what is shown."""
    serve_backends(box)
    add(host)
    expected: list[dict[str, object]]
    expected = [dict.fromkeys(KINDS, Seen(BACKENDS[w.version], (w.shown, PORT))) for w in ways()]
    assert by_way(box.call(try_ways)) == by_way(expected)


def test_other_ports_are_untouched(box: Box, host: Node) -> None:
    add(host)
    for port in (PORT - 1, PORT + 1, PORT + 512, PORT ^ 0x100, PORT + 32):
        assert by_way(box.call(try_ways, port)) == by_way(box.call(try_ways, port, bare=True))


def test_of_one_protocol_only(box: Box, host: Node) -> None:
    """A TCP service's port is not a UDP one's."""
    serve_backends(box)
    host.services.add(Service.of(f"node:{PORT}/tcp", *BACKENDS.values()))
    untouched = box.call(try_ways, bare=True)
    for seen, direct in zip(box.call(try_ways), untouched, strict=True):
        assert isinstance(seen.pop(TCP), Seen)
        del direct[TCP]
        assert seen == direct


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_backends_of_one_family(box: Box, host: Node, version: int) -> None:
    """A client gets its own family's, and is refused where there are none."""
    serve_backends(box)
    add(host, BACKENDS[version])
    for way, seen in zip(ways(), box.call(try_ways), strict=True):
        if way.version == version:
            assert seen == dict.fromkeys(KINDS, Seen(BACKENDS[version], (way.shown, PORT)))
        else:
            assert seen == refused(), way


def test_the_other_familys_states_do_not_matter(box: Box, host: Node) -> None:
    """Each family drains, goes down and comes back by itself."""
    serve_backends(box)
    frontend = f"node:{PORT}/udp"
    for state4, state6 in (("draining", "active"), ("active", "down"), ("down", "draining")):
        backends = [f"{BACKENDS[4]},state={state4}", f"{BACKENDS[6]},state={state6}"]
        host.services.set(Service.of(frontend, *backends))
        for way, seen in zip(ways(), box.call(try_ways), strict=True):
            state = state4 if way.version == 4 else state6
            reached = Seen(BACKENDS[way.version], (way.shown, PORT))
            assert seen[UDP_CONNECTED] == (
                refusals()[UDP_CONNECTED] if state == "down" else reached
            )


def test_shares_are_of_each_family(host: Node) -> None:
    """What one family's backends weigh takes nothing from the other's."""
    backends = ["10.0.0.2:80,weight=1", "[fd00::2]:80,weight=3", "10.0.0.3:80,weight=3",
                "[fd00::3]:80,weight=1,state=draining"]  # fmt: skip
    host.services.add(Service.of(f"node:{PORT}/tcp", *backends))
    assert host.services.shares(f"node:{PORT}/tcp") == [1, 1, 3, 0]


def test_exact_frontends_come_first(box: Box, host: Node) -> None:
    serve_backends(box)
    box.serve("10.0.0.3:8080/tcp", "10.0.0.4:8080/tcp")
    host.services.add(Service.of(f"node:{PORT}/tcp", *BACKENDS.values()))
    way = ("10.0.0.3:8080", "10.0.0.4:8080")
    host.services.add(Service.of(f"{HOST_V4}:{PORT}/tcp", way[0]))
    host.services.add(Service.of(f"127.0.0.1:{PORT}/tcp", way[1]))

    def servers() -> list[str]:
        hosts = (HOST_V4, "127.0.0.1", "10.0.0.1", "0.0.0.0")
        seen = [outcome(exchange, V4, TCP, (host, PORT)) for host in hosts]
        return [each.server if isinstance(each, Seen) else str(each) for each in seen]

    by_loopback = BACKENDS[4] if kernel.knows_the_host() else "ECONNREFUSED"
    assert box.call(servers) == [way[0], way[1], BACKENDS[4], way[1]]
    host.services.remove(f"{HOST_V4}:{PORT}/tcp")
    assert box.call(servers) == [BACKENDS[4], way[1], BACKENDS[4], way[1]]
    host.services.remove(f"127.0.0.1:{PORT}/tcp")
    assert box.call(servers) == [BACKENDS[4], by_loopback, BACKENDS[4], by_loopback]
    host.services.set(Service.of(f"{HOST_V4}:{PORT}/tcp"))
    host.services.remove(f"node:{PORT}/tcp")
    seen = box.call(outcome, exchange, V4, TCP, (HOST_V4, PORT))
    assert seen == "ECONNREFUSED"


def test_one_socket_by_several_names(box: Box, host: Node) -> None:
    """An unconnected socket is answered from the address that it asked, each time."""
    serve_backends(box)
    add(host)

    def converse(family: Family, names: list[str]) -> list[tuple[str, int]]:
        with new_socket(family, UDP_UNCONNECTED) as client:
            return [ask(client, (name, PORT)).peer for name in names]

    for family, names in (
        (V4, [HOST_V4, "127.0.0.1", "127.0.0.2", HOST_V4, "127.0.0.1", "10.0.0.1"]),
        (V6, [HOST_V6, "::1", f"::ffff:{HOST_V4}", "::ffff:127.0.0.1", "fd00::1", "::1", HOST_V6]),
    ):
        if not kernel.knows_the_host():
            names = [name for name in names if "127" not in name and name != "::1"]
        assert box.call(converse, family, names) == [(name, PORT) for name in names]


def test_removed_and_detached(box: Box, host: Node) -> None:
    """Nothing is left of a NodePort, and one that has no backend refuses."""
    serve_backends(box)
    way = WAYS[0]
    add(host)
    for protocol in TYPES:
        host.services.set(Service.of(f"node:{PORT}/{protocol}"))
    assert box.call(try_ways) == [refused()] * len(ways())
    bare = box.start(try_all, way, bare=True).result()
    for protocol in TYPES:
        host.services.remove(f"node:{PORT}/{protocol}")
    assert box.call(try_all, way) == bare
    add(host)
    host.detach()
    assert box.call(try_all, way) == bare


def test_a_backend_on_the_same_port(box: Box, host: Node) -> None:
    """A pod on the host's network: the NodePort's own address is its backend's. No circle."""
    own = f"{HOST_V4}:{PORT}"
    for protocol in TYPES:
        host.services.add(Service.of(f"node:{PORT}/{protocol}", own))
    box.serve(*(f"{own}/{protocol}" for protocol in TYPES))
    for way, seen in zip(ways(), box.call(try_ways), strict=True):
        if way.version == 4:
            assert seen == dict.fromkeys(KINDS, Seen(own, (way.shown, PORT))), way


@pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])
def test_many_node_ports(box: Box, kind: str) -> None:
    """Neighbours by number share lines of the ports' bitmap; each is found, and only it."""
    ports = [1, 31, 32, 33, 511, 512, 513, 30000, 30001, 32767, 65535]
    protocol = protocol_of(kind)
    box.serve(*(f"10.0.0.2:{port}/{protocol}" for port in ports))
    with hostreach.open(str(box.pin)) as node:
        attach_inside(box, node)
        node.services.apply(
            Service.of(f"node:{port}/{protocol}", f"10.0.0.2:{port}") for port in ports
        )

        def found(candidates: list[int]) -> list[int]:
            results = {p: outcome(exchange, V4, kind, ("10.0.0.1", p)) for p in candidates}
            for port, seen in results.items():
                assert not isinstance(seen, Seen) or seen.server == f"10.0.0.2:{port}"
            return [port for port, seen in results.items() if isinstance(seen, Seen)]

        assert box.call(found, ports) == ports
        others = {p + d for p in ports for d in (-1, 1, 256)} - {*ports}
        neighbours = sorted(p for p in others if 0 < p < 65536)
        assert box.call(found, neighbours) == []
        for port in ports[::2]:
            node.services.remove(f"node:{port}/{protocol}")
        assert box.call(found, ports) == ports[1::2]


def test_a_listener_of_the_host_is_reached_again(box: Box, host: Node) -> None:
    """What a NodePort hid from local clients is there when it goes."""
    serve_backends(box)
    box.serve(f"{HOST_V4}:{PORT}/tcp")
    host.services.add(Service.of(f"node:{PORT}/tcp", *BACKENDS.values()))

    def server() -> str:
        return exchange(V4, TCP, (HOST_V4, PORT)).server

    assert box.call(server) == BACKENDS[4]
    host.services.remove(f"node:{PORT}/tcp")
    assert box.call(server) == f"{HOST_V4}:{PORT}"


def test_ping_sockets_are_untouched(box: Box, host: Node) -> None:
    """ICMP by connect: no port, and no service of any protocol."""
    add(host)

    def connect() -> object:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as client:
            client.connect((HOST_V4, PORT))
            return client.getpeername()[0]

    assert box.call(connect) == HOST_V4
