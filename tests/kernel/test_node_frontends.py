# SPDX-License-Identifier: Apache-2.0
"""NodePorts: one service on every address of this node, and on the host's loopback alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Service, errors

from .harness import Box, Servers, kernel
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
from .harness.host import HOST_V4, HOST_V6, PORT, Pod, attach_inside, give_addresses, opened, pods

if TYPE_CHECKING:
    from hostreach.node import Node

IP_RECVERR = 11
IPV6_RECVERR = 25

TYPES = ("tcp", "udp")
BACKENDS = {4: "10.0.0.2:8080", 6: "[fd00::2]:8080"}


@dataclass(frozen=True)
class Way:
    """One way to name the node: what a client says, and what it is shown without hostreach too."""

    family: Family
    host: str
    shown: str
    loopback: bool
    version: int

    def __str__(self) -> str:
        return self.host


WAYS = [
    Way(V4, HOST_V4, HOST_V4, False, 4),
    Way(V4, "127.0.0.1", "127.0.0.1", True, 4),
    Way(V4, "127.0.0.2", "127.0.0.2", True, 4),
    Way(V4, "0.0.0.0", "127.0.0.1", True, 4),
    Way(V6, HOST_V6, HOST_V6, False, 6),
    Way(V6, "::1", "::1", True, 6),
    Way(V6, "::", "::1", True, 6),
    Way(V6, f"::ffff:{HOST_V4}", f"::ffff:{HOST_V4}", False, 4),
    Way(V6, "::ffff:127.0.0.1", "::ffff:127.0.0.1", True, 4),
    Way(V6, "::ffff:127.0.0.2", "::ffff:127.0.0.2", True, 4),
    Way(V6, "::ffff:0.0.0.0", "::ffff:127.0.0.1", True, 4),
]


@pytest.fixture
def host(box: Box) -> Iterator[Node]:
    """The node, whose host network namespace is the box's."""
    give_addresses(box)
    with opened(box) as node:
        attach_inside(box, node)
        yield node


@pytest.fixture
def pod(box: Box) -> Iterator[Pod]:
    with pods(box, 1) as (made,):
        yield made


def add(node: Node, *backends: str) -> None:
    for protocol in ("tcp", "udp"):
        node.services.add(Service.of(f"node:{PORT}/{protocol}", *backends or BACKENDS.values()))


def serve_backends(box: Box) -> None:
    box.serve(*(f"{server}/{protocol}" for server in BACKENDS.values() for protocol in TYPES))


def try_all(way: Way, port: int = PORT) -> dict[str, object]:
    """What each kind of client comes to."""
    return {kind: outcome(_try, way, kind, port) for kind in KINDS}


def refused() -> dict[str, str]:
    """As refusals(); but who asks for ICMP errors, as _try() does, hears of lost datagrams too."""
    return refusals() | {UDP_UNCONNECTED: "ECONNREFUSED"}


def ways() -> list[Way]:
    """Those that reach a node: frontend here; none by loopback if nobody knows the host's."""
    return [way for way in WAYS if kernel.knows_the_host() or not way.loopback]


def try_ways(port: int = PORT) -> list[dict[str, object]]:
    """What each kind of client comes to, by each of ways()."""
    return [try_all(way, port) for way in ways()]


def by_way(seen: list[dict[str, object]]) -> dict[str, dict[str, object]]:
    return dict(zip(map(str, ways()), seen, strict=True))


def _try(way: Way, kind: str, port: int) -> Seen:
    if kind != UDP_UNCONNECTED:
        return exchange(way.family, kind, (way.host, port))
    with new_socket(way.family, kind) as client:
        # Else the kernel says nothing of a closed port, and the wait is long.
        client.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        if way.family is V6:
            client.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        return ask(client, (way.host, port))


def test_reached(box: Box, host: Node) -> None:
    """By every name that the node has; what was asked for is what is shown."""
    serve_backends(box)
    add(host)
    expected: list[dict[str, object]]
    expected = [dict.fromkeys(KINDS, Seen(BACKENDS[w.version], (w.shown, PORT))) for w in ways()]
    assert by_way(box.call(try_ways)) == by_way(expected)


def test_loopback_is_shown_as_without_hostreach(box: Box, host: Node) -> None:
    """A listener of our own on loopback is shown under the same addresses."""
    add(host)
    box.serve("127.0.0.1:90/tcp", "127.0.0.1:90/udp", "[::1]:90/tcp", "[::1]:90/udp")
    seen = by_way(box.call(try_ways, 90))
    assert seen == by_way(box.call(try_ways, 90, bare=True))
    for way in ways():
        shown = {each.peer for each in seen[str(way)].values() if isinstance(each, Seen)}
        assert shown <= {(way.shown, 90)}, way


def test_loopback_where_nobody_knows_the_host(
    box: Box, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left alone, and the node's addresses are served all the same."""
    kernel.switch_off(monkeypatch, "netns_cookie")
    give_addresses(box)
    attach_inside(box, node)
    serve_backends(box)
    add(node)
    for way in WAYS:
        seen = box.call(try_all, way)
        if way.loopback:
            assert seen == box.call(try_all, way, bare=True)
        else:
            shown = (way.shown, PORT)
            assert seen == dict.fromkeys(KINDS, Seen(BACKENDS[way.version], shown))


def test_a_pods_loopback_is_its_own(host: Node, pod: Pod) -> None:
    """Nor does the host's service hide what listens there; the node's addresses reach it."""
    servers = [f"{server}/{protocol}" for server in BACKENDS.values() for protocol in TYPES]
    own = [f"{address}:{PORT}/{protocol}" for address in ("127.0.0.1", "127.0.0.2", "[::1]")
           for protocol in TYPES]  # fmt: skip
    add(host)
    there = Servers(pod.enter, [*servers, *own], reuse_port=False)
    try:
        seen = {str(way): pod.call(try_all, way) for way in WAYS}
    finally:
        there.stop()
    for way in WAYS:
        bare = way.shown.removeprefix("::ffff:")
        listener = f"[{bare}]:{PORT}" if ":" in bare else f"{bare}:{PORT}"
        reached = listener if way.loopback else BACKENDS[way.version]
        assert seen[str(way)] == dict.fromkeys(KINDS, Seen(reached, (way.shown, PORT))), way


def test_other_ports_are_untouched(box: Box, host: Node) -> None:
    add(host)
    for port in (PORT - 1, PORT + 1, PORT + 512, PORT ^ 0x100, PORT + 32):
        assert by_way(box.call(try_ways, port)) == by_way(box.call(try_ways, port, bare=True))


def test_other_addresses_are_untouched(box: Box, host: Node) -> None:
    """Those that are local without being the node's among them."""
    add(host)
    for address in ("10.0.0.9", "198.51.100.1", "2001:db8::2"):
        v6 = ":" in address
        way = Way(V6 if v6 else V4, address, address, False, 6 if v6 else 4)
        seen = box.call(try_all, way)
        assert seen == box.call(try_all, way, bare=True)
        assert not any(isinstance(each, Seen) for each in seen.values())


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


def test_addresses_by_cidr(box: Box, node: Node) -> None:
    """Only those of the node's addresses count that lie in one; loopback always does."""
    serve_backends(box)
    add(node)
    give_addresses(box)

    def reached() -> set[str]:
        seen = {way.host: exchange_outcome(way) for way in WAYS}
        return {host for host, each in seen.items() if isinstance(each, Seen)}

    def exchange_outcome(way: Way) -> object:
        return outcome(exchange, way.family, TCP, (way.host, PORT))

    loopback = {way.host for way in ways() if way.loopback}
    v4, v6 = {HOST_V4, f"::ffff:{HOST_V4}"}, {HOST_V6}
    for cidrs, expected in (
        (["192.0.2.0/24"], v4),
        (["2001:db8::/32"], v6),
        (["192.0.2.0/24", "2001:db8::/32"], v4 | v6),
        (["192.0.2.2/32"], set()),
        ([], set()),
        (None, v4 | v6),
    ):
        attach_inside(box, node, node_addresses=cidrs)
        assert box.call(reached) == loopback | expected, cidrs


def test_bad_cidrs_change_nothing(box: Box, host: Node) -> None:
    serve_backends(box)
    add(host)
    for cidr in ("192.0.2.0/33", "nonsense", "", "192.0.2.0/24/1", "::/129"):
        with pytest.raises(errors.InvalidInput) as caught:
            attach_inside(box, host, node_addresses=["198.51.100.0/24", cidr])
        assert "\n" not in str(caught.value)
    assert isinstance(box.call(outcome, exchange, V4, TCP, (HOST_V4, PORT)), Seen)


def test_addresses_on_loopback_links_count(box: Box, host: Node) -> None:
    """Hosts that route by BGP have theirs on lo."""
    serve_backends(box)
    add(host)
    done = box.run(["ip", "address", "add", "203.0.113.5/32", "dev", "lo"], bare=True)
    assert done.returncode == 0, done
    attach_inside(box, host)
    seen = box.call(outcome, exchange, V4, TCP, ("203.0.113.5", PORT))
    assert seen == Seen(BACKENDS[4], ("203.0.113.5", PORT))


def test_another_namespace_as_the_hosts(box: Box, node: Node) -> None:
    """--host-netns: attached from elsewhere, the host's loopback is found all the same."""
    kernel.need(kernel.knows_the_host(), "cookie of a network namespace for user space")
    serve_backends(box)
    add(node)
    loopback = (V4, TCP, ("127.0.0.1", PORT))
    assert box.call(outcome, exchange, *loopback) == "ECONNREFUSED"
    pid = box.serve("10.0.0.8:99/tcp").pid
    node.attach(cgroup=str(box.cgroup), host_netns=f"/proc/{pid}/ns/net")
    assert isinstance(box.call(outcome, exchange, *loopback), Seen)
    node.attach(cgroup=str(box.cgroup))
    assert box.call(outcome, exchange, *loopback) == "ECONNREFUSED"


def test_no_network_namespace(box: Box, host: Node) -> None:
    for path in ("/proc/self/ns/uts", "/proc/self/ns/none", "/proc/self", "x", ""):
        with pytest.raises(errors.InvalidInput) as caught:
            host.attach(cgroup=str(box.cgroup), host_netns=path)
        assert "\n" not in str(caught.value)
    add(host)
    serve_backends(box)
    assert isinstance(box.call(outcome, exchange, V4, TCP, (HOST_V4, PORT)), Seen)


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
