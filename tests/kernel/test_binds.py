# SPDX-License-Identifier: Apache-2.0
"""Bind protection: a server on a NodePort's port would never hear its local clients."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from hostreach import Service

from .harness import Box, kernel, linux
from .harness.clients import TCP, V4, Seen, exchange, outcome
from .harness.host import HOST_V4, HOST_V6, PORT, attach_inside, give_addresses, opened, pods

if TYPE_CHECKING:
    from hostreach.node import Node

IPV6_FREEBIND = 78

STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
IN, IN6 = socket.AF_INET, socket.AF_INET6
IN_USE, FREE = "EADDRINUSE", "bound"

SERVICES = [
    Service.of(f"node:{PORT}/tcp", "10.0.0.2:8080"),
    Service.of("node:30053/udp", "10.0.0.2:8053"),
    Service.of(f"{HOST_V4}:443/tcp", "10.0.0.2:8443"),
    Service.of(f"[{HOST_V6}]:444/udp", "[fd00::2]:8443"),
    Service.of("10.0.0.9:81/tcp", "10.0.0.2:8081"),  # local, but none of the node's
]


class Case(NamedTuple):
    family: int
    kind: int
    host: str
    port: int
    result: str

    def __str__(self) -> str:
        protocol = "tcp" if self.kind == STREAM else "udp"
        return f"{self.host}-{self.port}-{protocol}"


CASES = [
    *(
        Case(family, STREAM, host, PORT, IN_USE)
        for family, host in (
            (IN, "0.0.0.0"),
            (IN, "127.0.0.1"),
            (IN, HOST_V4),
            (IN, "10.0.0.2"),
            (IN6, "::"),
            (IN6, "::1"),
            (IN6, HOST_V6),
            (IN6, "::ffff:127.0.0.1"),
            (IN6, "::ffff:0.0.0.0"),
        )
    ),
    Case(IN, DGRAM, "0.0.0.0", 30053, IN_USE),
    Case(IN6, DGRAM, "::", 30053, IN_USE),
    Case(IN, DGRAM, "127.0.0.1", 30053, IN_USE),
    Case(IN, STREAM, HOST_V4, 443, IN_USE),
    Case(IN6, STREAM, f"::ffff:{HOST_V4}", 443, IN_USE),
    Case(IN6, DGRAM, HOST_V6, 444, IN_USE),
    # the other protocol, other ports, other addresses
    Case(IN, DGRAM, "0.0.0.0", PORT, FREE),
    Case(IN6, DGRAM, "::", PORT, FREE),
    Case(IN, STREAM, "0.0.0.0", 30053, FREE),
    Case(IN, STREAM, "0.0.0.0", PORT + 1, FREE),
    Case(IN, STREAM, "0.0.0.0", PORT - 1, FREE),
    Case(IN6, STREAM, "::", PORT ^ 0x100, FREE),
    Case(IN, DGRAM, HOST_V4, 443, FREE),
    Case(IN, STREAM, "127.0.0.1", 443, FREE),
    Case(IN, STREAM, "10.0.0.9", 81, FREE),
    Case(IN, STREAM, "0.0.0.0", 81, FREE),
    Case(IN, STREAM, "10.0.0.2", 8080, FREE),  # a backend's own
    Case(IN6, STREAM, HOST_V6, 444, FREE),
]


def bind(family: int, kind: int, host: str, port: int) -> str:
    with socket.socket(family, kind) as server:
        return outcome_of_bind(server, host, port)


def outcome_of_bind(server: socket.socket, host: str, port: int) -> str:
    if server.family == IN6:
        # The link with that address is down.
        server.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    failed = outcome(server.bind, (host, port))
    return FREE if failed is None else str(failed)


def bind_all(cases: Iterable[Case] = CASES) -> dict[str, str]:
    return {str(case): bind(*case[:4]) for case in cases}


NO_PROTECTION = "hook that can refuse a bind"  # test_cli_refusals tells what attach says


@pytest.fixture
def host(box: Box) -> Iterator[Node]:
    kernel.need(kernel.protects_binds(), NO_PROTECTION)
    give_addresses(box)
    with opened(box) as node:
        attach_inside(box, node, protect_binds=True)
        node.services.apply(SERVICES)
        yield node


def test_explicit_binds(box: Box, host: Node) -> None:
    assert host.status().protect_binds
    assert box.call(bind_all) == {str(case): case.result for case in CASES}


def test_not_in_other_namespaces(box: Box, host: Node) -> None:
    here = [case for case in CASES if case.host not in (HOST_V4, HOST_V6, f"::ffff:{HOST_V4}")]
    assert host.status().protect_binds
    with pods(box, 1) as (pod,):
        assert pod.call(bind_all, here) == {str(case): FREE for case in here}


def test_off_by_default_and_off_again(box: Box, host: Node) -> None:
    attach_inside(box, host)
    assert not host.status().protect_binds
    free = {str(case): FREE for case in CASES}
    assert box.call(bind_all) == free
    attach_inside(box, host, protect_binds=True)
    assert box.call(bind_all) != free
    host.detach()
    assert box.call(bind_all) == free


def test_follows_the_services(box: Box, host: Node) -> None:
    """At once: a service that goes frees its port, and one that comes takes it."""

    def attempt(port: int) -> str:
        return box.call(bind, IN, STREAM, "0.0.0.0", port)

    host.services.remove(f"node:{PORT}/tcp")
    assert attempt(PORT) == FREE
    host.services.add(Service.of(f"node:{PORT + 1}/tcp"))
    assert attempt(PORT + 1) == IN_USE
    host.services.add(SERVICES[0])
    assert attempt(PORT) == IN_USE


def test_the_socket_can_bind_elsewhere(box: Box, host: Node) -> None:
    """Refused, it is as if it had never tried: for TCP and UDP, IPv4 and IPv6."""
    assert host.status().protect_binds

    def attempt() -> list[tuple[object, ...]]:
        results: list[tuple[object, ...]] = []
        for family, address in ((IN, "127.0.0.1"), (IN6, "::1")):
            for kind, port in ((STREAM, PORT), (DGRAM, 30053)):
                with socket.socket(family, kind) as server:
                    refused = [outcome_of_bind(server, address, port) for _ in range(2)]
                    unbound = server.getsockname()[1]
                    bound = outcome_of_bind(server, address, port + 1)
                    if kind == STREAM:
                        server.listen()
                    at = server.getsockname()
                    with socket.socket(family, kind) as client:
                        client.connect(at)
                        assert client.getpeername() == at
                    results.append((*refused, unbound, bound, at[1] - port))
        return results

    assert box.call(attempt) == [(IN_USE, IN_USE, 0, FREE, 1)] * 4


def test_a_refused_socket_can_connect(box: Box, host: Node) -> None:
    box.serve("10.0.0.2:8080/tcp")
    assert host.status().protect_binds

    def attempt() -> object:
        with socket.socket(IN, STREAM) as client:
            assert outcome_of_bind(client, "0.0.0.0", PORT) == IN_USE
            client.connect(("127.0.0.1", PORT))
            return client.getpeername()

    assert box.call(attempt) == ("127.0.0.1", PORT)


@pytest.mark.parametrize("option", ["SO_REUSEADDR", "SO_REUSEPORT"])
def test_sharing_a_port_is_no_way_round(box: Box, host: Node, option: str) -> None:
    assert host.status().protect_binds

    def attempt() -> str:
        with socket.socket(IN, STREAM) as server:
            server.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
            return outcome_of_bind(server, "0.0.0.0", PORT)

    assert box.call(attempt) == IN_USE


def test_a_server_from_before_stays(box: Box, node: Node) -> None:
    """Protection ends no listener; other namespaces and the network still reach it."""
    kernel.need(kernel.protects_binds(), NO_PROTECTION)
    box.serve(f"10.0.0.2:{PORT}/tcp")
    give_addresses(box)
    attach_inside(box, node, protect_binds=True)
    node.services.apply(SERVICES)
    seen = box.call(exchange, V4, TCP, ("10.0.0.2", PORT))
    assert seen == Seen(f"10.0.0.2:{PORT}", ("10.0.0.2", PORT))


def test_port_0(box: Box, host: Node) -> None:
    """The kernel keeps off reserved ports, so that no bind to port 0 fails for ours."""
    host.services.apply(
        Service.of(f"node:{port}/{protocol}") for port in range(30000, 30010)
        for protocol in ("tcp", "udp")
    )  # fmt: skip

    def attempt() -> set[tuple[str, bool]]:
        settings = Path("/proc/sys/net/ipv4")
        (settings / "ip_local_port_range").write_text("30000 30100")
        (settings / "ip_local_reserved_ports").write_text(f"30000-30009,{PORT},30053")
        results = set()
        for family, address in ((IN, "0.0.0.0"), (IN, "127.0.0.1"), (IN6, "::")):
            for kind in (STREAM, DGRAM):
                for _ in range(100):
                    with socket.socket(family, kind) as server:
                        said = outcome_of_bind(server, address, 0)
                        results.add((said, 30010 <= server.getsockname()[1] <= 30100))
        return results

    assert box.call(attempt) == {(FREE, True)}


def test_port_0_where_nothing_is_reserved(box: Box, host: Node) -> None:
    """Refused as any other: a server there would not hear its local clients."""
    host.services.apply(Service.of(f"node:{port}/tcp") for port in range(30000, 30010))

    def attempt() -> str:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("30000 30009")
        return bind(IN, STREAM, "0.0.0.0", 0)

    assert box.call(attempt) == IN_USE


def test_ports_that_the_kernel_chooses_later(box: Box, host: Node) -> None:
    """By listen, connect and sendto, without a bind: never refused."""
    host.services.apply(Service.of(f"node:{port}/tcp") for port in range(30000, 30100))

    def attempt() -> list[object]:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("30000 30100")
        results: list[object] = []
        with socket.socket(IN, STREAM) as server, socket.socket(IN, DGRAM) as sender:
            results.append(outcome(server.listen))
            results.append(outcome(sender.sendto, b"x", ("10.0.0.2", 9)))
            with socket.socket(IN, DGRAM) as client:
                results.append(outcome(client.connect, ("10.0.0.2", 9)))
        return results

    assert box.call(attempt) == [None, 1, None]


def test_mptcp_servers_too(box: Box, host: Node) -> None:
    """They take the same port."""
    kernel.need(kernel.has_mptcp(), "MPTCP")
    assert host.status().protect_binds

    def attempt() -> list[str]:
        results = []
        for port in (PORT, PORT + 1):
            with socket.socket(IN, STREAM, linux.IPPROTO_MPTCP) as server:
                results.append(outcome_of_bind(server, "0.0.0.0", port))
        return results

    assert box.call(attempt) == [IN_USE, FREE]
