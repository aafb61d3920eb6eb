# SPDX-License-Identifier: Apache-2.0
"""TCP beyond a plain connect: fast open, connecting again, MPTCP."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel, linux
from .harness.clients import (
    FAMILIES,
    RAW_UNSPEC,
    TCP,
    V4,
    Family,
    connect,
    limit_waits,
    line,
    new_socket,
    outcome,
    wait_writable,
)

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)


def serve(box: Box, node: Node, family: Family, *, number: int = 2, port: int = 80) -> str:
    """vip():port before one server at backend(number); returns the server."""
    server = family.endpoint(family.backend(number), 8080)
    box.serve(f"{server}/tcp")
    node.services.add(Service.of(f"{family.endpoint(family.vip(), port)}/tcp", server))
    return server


@FAMILY
def test_fast_open_by_sendto(box: Box, node: Node, family: Family) -> None:
    server = serve(box, node, family)
    vip = family.sockaddr(family.vip(), 80)

    def converse() -> tuple[str, object, str]:
        with new_socket(family, TCP) as client:
            client.sendto(b"early\n", linux.MSG_FASTOPEN, vip)
            return line(client), client.getpeername()[:2], line(client)

    said, peer, echoed = box.call(converse)
    shown = kernel.shown(vip, family.sockaddr_of(server))
    assert (said, peer, echoed) == (server, shown, "early")


@FAMILY
def test_fast_open_by_socket_option(box: Box, node: Node, family: Family) -> None:
    server = serve(box, node, family)
    vip = family.sockaddr(family.vip(), 80)

    def converse() -> tuple[str, object, str]:
        with new_socket(family, TCP) as client:
            client.setsockopt(socket.IPPROTO_TCP, linux.TCP_FASTOPEN_CONNECT, 1)
            client.connect(vip)
            client.send(b"early\n")
            return line(client), client.getpeername()[:2], line(client)

    shown = kernel.shown(vip, family.sockaddr_of(server))
    assert box.call(converse) == (server, shown, "early")


@FAMILY
def test_fast_open_is_refused_without_a_backend(box: Box, node: Node, family: Family) -> None:
    node.services.add(Service.of(f"{family.endpoint(family.vip(), 80)}/tcp"))
    vip = family.sockaddr(family.vip(), 80)

    def by_sendto() -> None:
        with new_socket(family, TCP) as client:
            client.sendto(b"early\n", linux.MSG_FASTOPEN, vip)

    def by_option() -> None:
        with new_socket(family, TCP) as client:
            client.setsockopt(socket.IPPROTO_TCP, linux.TCP_FASTOPEN_CONNECT, 1)
            client.connect(vip)

    assert box.call(outcome, by_sendto) == "ECONNREFUSED"
    assert box.call(outcome, by_option) == "ECONNREFUSED"


@FAMILY
def test_refused_without_blocking_then_connected(box: Box, node: Node, family: Family) -> None:
    """The backend refuses; the socket learns it as if the service had, and connects again."""
    closed = family.endpoint(family.backend(3), 9)
    frontend = f"{family.endpoint(family.vip(), 81)}/tcp"
    node.services.add(Service.of(frontend, closed))
    server = serve(box, node, family)
    refusing, serving = (family.sockaddr(family.vip(), port) for port in (81, 80))
    direct = family.sockaddr_of(server)

    def converse() -> None:
        with new_socket(family, TCP, blocking=False) as client:
            assert client.connect_ex(refusing) == errno.EINPROGRESS
            wait_writable(client)
            error = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            assert error == errno.ECONNREFUSED
            # The kernel itself answers the first call after a refusal, as without hostreach.
            assert client.connect_ex(serving) == errno.ECONNABORTED
            connect(client, serving)
            assert line(client) == server
            assert client.getpeername()[:2] == kernel.shown(serving, direct)

    box.call(converse)


@FAMILY
def test_refused_service_then_connected(box: Box, node: Node, family: Family) -> None:
    """A refusal by hostreach leaves the socket as fresh as one by the kernel's own check."""
    node.services.add(Service.of(f"{family.endpoint(family.vip(), 81)}/tcp"))
    server = serve(box, node, family)
    empty, serving = (family.sockaddr(family.vip(), port) for port in (81, 80))
    direct = family.sockaddr_of(server)

    def converse() -> None:
        for blocking in (True, False):
            with new_socket(family, TCP, blocking=blocking) as client:
                for _ in range(2):
                    if kernel.refuses_at_once():
                        assert client.connect_ex(empty) == errno.ECONNREFUSED
                        continue
                    assert outcome(connect, client, empty) == "ECONNREFUSED"
                    # as above: the kernel had begun to connect
                    assert blocking or client.connect_ex(empty) == errno.ECONNABORTED
                connect(client, serving)
                assert line(client) == server
                assert client.getpeername()[:2] == kernel.shown(serving, direct)

    box.call(converse)


@FAMILY
def test_connect_on_a_connected_socket_changes_nothing(
    box: Box, node: Node, family: Family
) -> None:
    server = serve(box, node, family)
    node.services.add(Service.of(f"{family.endpoint(family.vip(), 81)}/tcp"))
    vip = family.sockaddr(family.vip(), 80)

    def converse() -> None:
        with new_socket(family, TCP) as client:
            connect(client, vip)
            for other in (vip, family.sockaddr(family.vip(), 81)):
                assert client.connect_ex(other) == errno.EISCONN
            assert client.getpeername()[:2] == kernel.shown(vip, family.sockaddr_of(server))
            assert line(client) == server

    box.call(converse)


@FAMILY
def test_disconnected_socket_connects_elsewhere(box: Box, node: Node, family: Family) -> None:
    """connect(AF_UNSPEC) resets a TCP socket, and no hook hears of it."""
    server = serve(box, node, family)
    vip = family.sockaddr(family.vip(), 80)
    direct = family.sockaddr(family.backend(2), 8080)

    def converse() -> None:
        with new_socket(family, TCP) as client:
            for address in (vip, direct, vip):
                connect(client, address)
                assert line(client) == server
                assert client.getpeername()[:2] == kernel.shown(address, direct)
                linux.connect_raw(client.fileno(), RAW_UNSPEC)
                assert outcome(client.getpeername) == "ENOTCONN"

    box.call(converse)


def test_peer_after_the_connection_ended(box: Box, node: Node) -> None:
    """As without hostreach: the peer is named as long as the socket has one."""
    serve(box, node, V4)

    def converse(address: tuple[str, int]) -> object:
        with new_socket(V4, TCP) as client:
            connect(client, address)
            line(client)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""
            return outcome(client.getpeername)

    assert box.call(converse, ("10.0.0.2", 8080)) == "ENOTCONN"
    assert box.call(converse, ("10.96.0.10", 80)) == "ENOTCONN"


@FAMILY
def test_mptcp(box: Box, node: Node, family: Family) -> None:
    """The hook runs on the subflow, getpeername on the socket above it."""
    kernel.need(kernel.has_mptcp(), "MPTCP")
    server = serve(box, node, family)
    node.services.add(Service.of(f"{family.endpoint(family.vip(), 81)}/tcp"))
    vip = family.sockaddr(family.vip(), 80)

    def converse() -> None:
        with socket.socket(family.af, socket.SOCK_STREAM, linux.IPPROTO_MPTCP) as client:
            limit_waits(client)
            connect(client, vip)
            assert line(client) == server
            direct = family.sockaddr_of(server)
            shown = kernel.shown(vip, direct) if kernel.knows_mptcp() else direct
            assert client.getpeername()[:2] == shown
        with socket.socket(family.af, socket.SOCK_STREAM, linux.IPPROTO_MPTCP) as client:
            refused = outcome(connect, client, family.sockaddr(family.vip(), 81))
            assert refused == "ECONNREFUSED"

    box.call(converse)


def test_servers_with_one_port_are_untouched(box: Box, node: Node) -> None:
    """SO_REUSEPORT still spreads what arrives, and accept shows the true client."""
    groups = [box.serve("10.0.0.2:80/tcp", "10.0.0.2:80/udp", reuse_port=True) for _ in range(2)]
    for protocol in ("tcp", "udp"):
        node.services.add(Service.of(f"10.96.0.10:80/{protocol}", "10.0.0.2:80"))

    def converse() -> None:
        for _ in range(64):
            with new_socket(V4, TCP) as client:
                connect(client, ("10.96.0.10", 80))
                assert line(client) == "10.0.0.2:80"

    box.call(converse)
    accepted = [len(servers.got()) for servers in groups]
    assert sum(accepted) == 64
    assert all(accepted), accepted


def test_accepted_sockets_show_the_client(box: Box, node: Node) -> None:
    """A server is no client: what accept and getpeername tell it is the truth."""
    node.services.add(Service.of("10.96.0.10:80/tcp", "10.0.0.2:80"))

    def converse() -> None:
        with socket.create_server(("10.0.0.2", 80)) as server, new_socket(V4, TCP) as client:
            client.bind(("10.0.0.7", 0))
            client.connect(("10.96.0.10", 80))
            accepted, shown = server.accept()
            with accepted:
                assert shown == client.getsockname() == accepted.getpeername()
                assert shown[0] == "10.0.0.7"
                assert accepted.getsockname() == ("10.0.0.2", 80)
                peer = kernel.shown(("10.96.0.10", 80), ("10.0.0.2", 80))
                assert client.getpeername() == peer

    box.call(converse)
