# SPDX-License-Identifier: Apache-2.0
"""MPTCP clients: the hook runs on a subflow, all else on the socket above it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, linux, wait_until
from .harness.clients import FAMILIES, RAW_UNSPEC, V4, Family, connect, limit_waits, line, outcome
from .harness.host import attach_inside, opened

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)
FRONTEND = "10.96.0.10:80/tcp"
VIP = ("10.96.0.10", 80)
SERVER = "10.0.0.2:8080"
SOL_MPTCP, MPTCP_INFO = 284, 1


def shown() -> tuple[str, int]:
    return kernel.shown(VIP, V4.sockaddr_of(SERVER))


@pytest.fixture(autouse=True)
def mptcp(request: pytest.FixtureRequest) -> None:
    kernel.need(kernel.has_mptcp(), "MPTCP")
    if request.function not in (test_a_kernel_without, test_ended_though_not_counted):
        kernel.need(kernel.knows_mptcp(), "way from a subflow to its MPTCP socket")


def new_socket(family: Family = V4, *, blocking: bool = True) -> socket.socket:
    client = socket.socket(family.af, socket.SOCK_STREAM, linux.IPPROTO_MPTCP)
    client.setblocking(blocking)
    if blocking:
        limit_waits(client)
    return client


@contextmanager
def mptcp_server(host: str, port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, linux.IPPROTO_MPTCP) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen()
        yield server


def counted(node: Node, number: int, frontend: str = FRONTEND) -> None:
    """Waits until so many connections are counted: the kernel ends an MPTCP socket by itself."""
    wait_until(
        lambda: node.services.active(frontend) == [number],
        f"{number} counted, not {node.services.active(frontend)}",
    )


def test_detach_counts_it(box: Box, node: Node) -> None:
    """It is in storage, though it found no place taken."""
    kernel.need(kernel.has("btf"), "way to go over socket storage")
    box.serve(f"{SERVER}/tcp")
    node.services.set(Service.of(FRONTEND, SERVER))

    def converse(test: Line) -> None:
        with new_socket() as client:
            connect(client, VIP)
            test.ask()

    with box.talk(converse) as test:
        test.recv()
        assert node.detach().sockets == 1
        test.send()


@FAMILY
def test_counted_once_and_released(box: Box, node: Node, family: Family) -> None:
    """Against a server that speaks no MPTCP: the kernel falls back to TCP."""
    server = family.endpoint(family.backend(2), 8080)
    frontend = f"{family.endpoint(family.vip(), 80)}/tcp"
    box.serve(f"{server}/tcp")
    node.services.add(Service.of(frontend, server))
    vip = family.sockaddr(family.vip(), 80)

    def converse(test: Line) -> None:
        clients = []
        for _ in range(3):
            clients.append(new_socket(family))
            connect(clients[-1], vip)
            assert line(clients[-1]) == server
            assert clients[-1].getpeername()[:2] == kernel.shown(vip, family.sockaddr_of(server))
        while clients:
            test.recv()
            clients.pop().close()
            test.send()
        test.recv()

    with box.talk(converse) as client:
        for number in (3, 2, 1):
            counted(node, number, frontend)
            client.ask()
        counted(node, 0, frontend)
        client.send()


@pytest.mark.parametrize("blocking", [True, False])
def test_true_mptcp(box: Box, node: Node, blocking: bool) -> None:
    """Both ends speak it: the subflow is translated, and the connection above it remembers."""
    node.services.add(Service.of(FRONTEND, SERVER))

    def converse(test: Line) -> None:
        with mptcp_server("10.0.0.2", 8080) as server, new_socket(blocking=blocking) as client:
            connect(client, VIP)
            accepted, _ = server.accept()
            with accepted:
                accepted.send(b"hello\n")
                assert line(client) == "hello"
                # no fallback: the option exists on such a socket alone
                assert client.getsockopt(SOL_MPTCP, MPTCP_INFO, 64)
                assert client.getpeername() == shown()
                test.ask()
                client.shutdown(socket.SHUT_WR)
                assert accepted.recv(1) == b""
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        counted(node, 1)
        client.send()
        client.recv()
        counted(node, 0)
        client.send()


def test_a_forked_socket(box: Box, node: Node) -> None:
    """The last close counts, by whomever."""
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(FRONTEND, SERVER))

    def converse(test: Line) -> None:
        with new_socket() as client:
            connect(client, VIP)
            twin = client.dup()
        test.ask()
        assert line(twin) == SERVER
        assert twin.getpeername() == shown()
        twin.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        counted(node, 1)
        client.send()
        client.recv()
        counted(node, 0)
        client.send()


def test_ended_with_its_backend(box: Box, node: Node) -> None:
    """By the TCP socket below; a dry run says so, and leaves it."""
    kernel.need(kernel.ends_sockets(), "way to end MPTCP sockets")
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(FRONTEND, SERVER, on_removal="keep"))

    def converse(test: Line) -> None:
        with new_socket() as client:
            connect(client, VIP)
            assert line(client) == SERVER
            for _ in range(2):
                test.send(outcome(client.recv, 1))
                test.recv()

    with box.talk(converse) as client:
        assert client.recv() == "EAGAIN"  # nothing to read
        node.services.set(Service.of(FRONTEND, SERVER, on_removal="reset"))
        node.services.remove(FRONTEND)
        client.send()
        assert client.recv() == "ECONNABORTED"
        client.send()


def test_refused(box: Box, node: Node) -> None:
    """By the service, and by the backend: the same errno as TCP's."""
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(FRONTEND))

    def attempt() -> object:
        with new_socket() as client:
            return outcome(connect, client, VIP)

    assert box.call(attempt) == "ECONNREFUSED"
    node.services.set(Service.of(FRONTEND, "10.0.0.2:9"))
    assert box.call(attempt) == "ECONNREFUSED"
    counted(node, 0)
    node.services.set(Service.of(FRONTEND, SERVER))
    assert box.call(attempt) is None
    counted(node, 0)


def test_disconnected_and_connected_directly(box: Box, node: Node) -> None:
    """The record counts while it is true, here as on a TCP socket."""
    box.serve(f"{SERVER}/tcp", "10.0.0.3:8080/tcp")
    node.services.add(Service.of(FRONTEND, SERVER))

    def converse(test: Line) -> None:
        with new_socket() as client:
            for address in (VIP, ("10.0.0.3", 8080), VIP):
                connect(client, address)
                given = ("10.0.0.2" if address == VIP else address[0], 8080)
                assert line(client) == V4.endpoint(*given)
                assert client.getpeername() == kernel.shown(address, given)
                test.ask(address == VIP)
                linux.connect_raw(client.fileno(), RAW_UNSPEC)

    with box.talk(converse) as client:
        for _ in range(3):
            client.recv()
            client.send()
    counted(node, 0)


def test_moves_from_service_to_service(box: Box, node: Node) -> None:
    box.serve(f"{SERVER}/tcp")
    frontends = [FRONTEND, "10.96.0.11:80/tcp"]
    for frontend in frontends:
        node.services.add(Service.of(frontend, SERVER))

    def converse(test: Line) -> None:
        with new_socket() as client:
            for n in (0, 1, 0):
                address = f"10.96.0.1{n}", 80
                connect(client, address)
                assert client.getpeername() == kernel.shown(address, V4.sockaddr_of(SERVER))
                test.ask(n)
                linux.connect_raw(client.fileno(), RAW_UNSPEC)

    with box.talk(converse) as client:
        for _ in range(3):
            n = client.recv()
            counted(node, 1, frontends[n])
            counted(node, 0, frontends[1 - n])
            client.send()


def test_a_kernel_without(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections work and getpeername shows the backend; TCP is as ever. A subflow is not counted,
    for nothing would tell of its end."""
    kernel.switch_off(monkeypatch, "mptcp")
    box.serve(f"{SERVER}/tcp")
    with opened(box) as node:
        attach_inside(box, node)
        node.services.add(Service.of(FRONTEND, SERVER))

        def converse(test: Line) -> None:
            with new_socket() as client:
                connect(client, VIP)
                assert line(client) == SERVER
                assert client.getpeername() == ("10.0.0.2", 8080)
                test.ask()
                with socket.create_connection(VIP) as tcp:
                    assert tcp.getpeername() == shown()
                    test.ask()
            test.ask()

        tells = kernel.knows_its_own()
        with box.talk(converse) as client:
            for number in (0, 1, 0):
                client.recv()
                if tells and kernel.counts_connections():
                    counted(node, number)
                client.send()


def test_ended_though_not_counted(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """No count says that anybody is at the backend that goes, and yet it is looked for."""
    kernel.need(kernel.has("btf") and kernel.ends_sockets(), "way to end sockets")
    kernel.switch_off(monkeypatch, "mptcp")
    box.serve(f"{SERVER}/tcp")
    with opened(box) as node:
        attach_inside(box, node)
        node.services.add(Service.of(FRONTEND, SERVER, on_removal="reset"))

        def converse(test: Line) -> None:
            with new_socket() as client:
                connect(client, VIP)
                assert line(client) == SERVER
                test.ask()
                test.send(outcome(client.recv, 1))

        with box.talk(converse) as client:
            client.recv()
            node.services.remove(FRONTEND)
            client.send()
            assert client.recv() == "ECONNABORTED"
