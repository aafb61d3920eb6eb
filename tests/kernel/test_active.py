# SPDX-License-Identifier: Apache-2.0
"""Open connections by backend: a socket counts once, from its selection to its last close."""

from __future__ import annotations

import array
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel, linux, scaled, wait_until
from .harness.clients import (
    FAMILIES,
    RAW_UNSPEC,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    Family,
    ask,
    connect,
    line,
    new_socket,
    outcome,
    wait_writable,
)

if TYPE_CHECKING:
    from hostreach.node import Node

pytestmark = pytest.mark.usefixtures("counting")

CONNECTED = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])
SERVERS = ["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080"]
VIPS = [(f"10.96.0.{n}", 80) for n in (10, 11, 12)]


def place(box: Box, node: Node, kind: str = TCP) -> None:
    """Three services, with one backend each; and one whose backend refuses, and an empty one."""
    protocol = kind.partition("-")[0]
    box.serve(*(f"{server}/{protocol}" for server in SERVERS))
    for (host, port), server in zip(VIPS, SERVERS, strict=True):
        node.services.add(Service.of(f"{host}:{port}/{protocol}", server))
    node.services.add(Service.of(f"10.96.0.20:80/{protocol}", "10.0.0.2:9"))
    node.services.add(Service.of(f"10.96.0.21:80/{protocol}"))


def counts(node: Node) -> list[int]:
    """Of all services' backends, in their order."""
    return [n for each in node.services for n in node.services.active(each.frontend)]


def check(box: Box, node: Node, function: Callable[[Line], object], *expected: list[int]) -> None:
    """function(line) calls line.ask() wherever the counts are expected to be the next ones."""
    with box.talk(function) as client:
        for number, each in enumerate(expected):
            client.recv()
            assert counts(node) == each, f"at {number}"
            client.send()
    wait_until(lambda: not any(counts(node)), "nothing counted after the client's end")


def connected(kind: str, vip: tuple[str, int] = VIPS[0]) -> socket.socket:
    client = new_socket(V4, kind)
    connect(client, vip)
    return client


@CONNECTED
def test_once_for_each_socket(box: Box, node: Node, kind: str) -> None:
    place(box, node, kind)

    def converse(test: Line) -> None:
        clients = [connected(kind, VIPS[n]) for n in (0, 0, 0, 1)]
        test.ask()
        while clients:
            clients.pop().close()
            test.ask()

    check(box, node, converse, [3, 1, 0, 0], [3, 0, 0, 0], [2, 0, 0, 0], [1, 0, 0, 0], [0] * 4)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_every_family(box: Box, node: Node, family: Family) -> None:
    server = family.endpoint(family.backend(2), 8080)
    for protocol in ("tcp", "udp"):
        box.serve(f"{server}/{protocol}")
        node.services.add(Service.of(f"{family.endpoint(family.vip(), 80)}/{protocol}", server))

    def converse(test: Line) -> None:
        for kind in (TCP, UDP_CONNECTED):
            with new_socket(family, kind) as client:
                connect(client, family.sockaddr(family.vip(), 80))
                test.ask()
        test.ask()

    check(box, node, converse, [1, 0], [0, 1], [0, 0])


@CONNECTED
def test_moves_when_it_connects_again(box: Box, node: Node, kind: str) -> None:
    """To another service, the same again, and away; a UDP socket with no disconnect between too."""
    place(box, node, kind)

    def converse(test: Line) -> None:
        with new_socket(V4, kind) as client:
            for address in (VIPS[0], VIPS[1], VIPS[1], VIPS[0], ("10.0.0.4", 8080), VIPS[2]):
                connect(client, address)
                test.ask()
                if kind == TCP:
                    linux.connect_raw(client.fileno(), RAW_UNSPEC)

    check(
        box,
        node,
        converse,
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 1, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 0],
    )


@CONNECTED
def test_failed_connects(box: Box, node: Node, kind: str) -> None:
    """One that the backend refuses counts until it is closed; one that hostreach refuses, never."""
    place(box, node, kind)

    def converse(test: Line) -> None:
        with new_socket(V4, kind) as client:
            failed = outcome(connect, client, ("10.96.0.20", 80))
            assert failed == ("ECONNREFUSED" if kind == TCP else None)
            test.ask()
        test.ask()
        with new_socket(V4, kind) as client:
            refused = kind == TCP or kernel.refuses_at_once()
            answer = outcome(connect, client, ("10.96.0.21", 80))
            assert answer == ("ECONNREFUSED" if refused else None)
            test.ask()
            connect(client, VIPS[0])
            test.ask()
        with new_socket(V4, kind, blocking=False) as client:
            client.connect_ex(("10.96.0.20", 80))
            if kind == TCP:
                wait_writable(client)
            test.ask()

    check(
        box,
        node,
        converse,
        [0, 0, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [0, 0, 0, 1],
    )


def test_refused_while_connected(box: Box, node: Node) -> None:
    """A UDP socket stays connected where it was, and is counted there.

    Where the kernel cannot refuse its connect, the count stays until it is closed.
    """
    place(box, node, UDP_CONNECTED)

    def converse(test: Line) -> None:
        with connected(UDP_CONNECTED) as client:
            if kernel.refuses_at_once():
                assert outcome(connect, client, ("10.96.0.21", 80)) == "ECONNREFUSED"
                assert ask(client).server == SERVERS[0]
            else:
                connect(client, ("10.96.0.21", 80))
            test.ask()

    check(box, node, converse, [1, 0, 0, 0])


@CONNECTED
def test_until_the_last_close(box: Box, node: Node, kind: str) -> None:
    """dup, fork, and descriptors on their way from one process to another."""
    place(box, node, kind)

    def converse(test: Line) -> None:
        client = connected(kind)
        twin = client.dup()
        client.close()
        test.ask()  # one by dup
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        twin.close()
        test.ask()  # the child has it
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        test.ask()
        here, there = socket.socketpair()
        client = connected(kind, VIPS[1])
        fds = array.array("i", [client.fileno()])
        here.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        client.close()
        test.ask()  # nobody has it but the message
        _, ancillary, _, _ = there.recvmsg(1, socket.CMSG_LEN(4))
        test.ask()  # received
        fds.frombytes(ancillary[0][2])
        os.close(fds[-1])
        test.ask()
        client = connected(kind, VIPS[2])
        fds = array.array("i", [client.fileno()])
        here.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        client.close()
        test.ask()
        here.close()
        there.close()  # with the message in it
        test.ask()

    one, two, three, none = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0] * 4
    check(box, node, converse, one, one, none, two, two, none, three, none)


@CONNECTED
def test_a_client_that_is_killed(box: Box, node: Node, kind: str) -> None:
    place(box, node, kind)

    def converse(test: Line) -> None:
        child = os.fork()
        if not child:
            clients = [connected(kind, vip) for vip in VIPS for _ in range(20)]
            test.ask()
            time.sleep(60)
            os._exit(len(clients))
        os.waitpid(child, 0)

    with box.talk(converse) as client:
        client.recv()
        assert counts(node) == [20, 20, 20, 0]
        client.send()
        time.sleep(scaled(0.05))
        (children,) = box_children(box)
        os.kill(children, signal.SIGKILL)
        wait_until(lambda: not any(counts(node)), "all released")


def box_children(box: Box) -> list[int]:
    """Pids in the box's cgroup whose parent is there too."""
    pids = {int(pid) for pid in (box.cgroup / "cgroup.procs").read_text().split()}

    def parent(pid: int) -> int:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:  # noqa: PTH123
            return int(file.read().rpartition(")")[2].split()[1])

    return [pid for pid in pids if parent(pid) in pids]


def test_a_stream_that_is_closed_by_the_server(box: Box, node: Node) -> None:
    """Until our last close, not theirs; and not through TIME_WAIT or orphaned states either."""
    place(box, node)

    def converse(test: Line) -> None:
        with connected(TCP) as client:
            line(client)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b""  # both directions are closed
            test.ask()
        test.ask()
        with connected(TCP) as client:
            client.send(b"x" * 100)
        test.ask()  # closed with unread data

    check(box, node, converse, [1, 0, 0, 0], [0] * 4, [0] * 4)


def test_servers_do_not_count(box: Box, node: Node) -> None:
    """Neither listeners nor what they accept, though hostreach sees their end."""
    node.services.add(Service.of("10.96.0.10:80/tcp", "10.0.0.9:80"))

    def converse(test: Line) -> None:
        with socket.create_server(("10.0.0.9", 80)) as server:
            clients = [socket.create_connection(VIPS[0]) for _ in range(3)]
            accepted = [server.accept()[0] for _ in clients]
            test.ask()
            for each in accepted:
                each.close()
            test.ask()
            for each in clients:
                each.close()
            test.ask()

    check(box, node, converse, [3], [3], [0])


@CONNECTED
def test_others_do_not_count(box: Box, node: Node, kind: str) -> None:
    """Straight to a backend, from outside the cgroup, or unconnected."""
    place(box, node, kind)

    def converse(test: Line) -> None:
        with new_socket(V4, kind) as client, new_socket(V4, UDP_UNCONNECTED) as sender:
            connect(client, ("10.0.0.2", 8080))
            if kind == UDP_CONNECTED:
                assert ask(sender, VIPS[0]).server == SERVERS[0]
            test.ask()

    check(box, node, converse, [0] * 4)


def test_an_unconnected_socket_that_connects(box: Box, node: Node) -> None:
    place(box, node, UDP_CONNECTED)

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_CONNECTED) as client:
            assert ask(client, VIPS[0]).server == SERVERS[0]
            test.ask()
            connect(client, VIPS[1])
            test.ask()
            client.sendto(b"x", VIPS[0])  # the kernel drops the answer
            test.ask()
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            connect(client, ("10.0.0.2", 8080))
            test.ask()

    none, one = [0] * 4, [0, 1, 0, 0]
    check(box, node, converse, none, one, one, none)


def test_counts_stay_with_the_backend(box: Box, node: Node) -> None:
    """Through changes to its service; they are gone with it, and a new one starts at none."""
    place(box, node)
    frontend = "10.96.0.10:80/tcp"

    def converse(test: Line) -> None:
        first = [connected(TCP) for _ in range(2)]
        test.ask()
        second = connected(TCP)
        test.ask()
        for client in (*first, second):
            client.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        for change in (
            Service.of(frontend, "10.0.0.9:1", SERVERS[0], on_removal="keep"),
            Service.of(frontend, f"{SERVERS[0]},weight=7", algorithm="maglev", on_removal="keep"),
            Service.of(frontend, f"{SERVERS[0]},state=draining", on_removal="keep"),
            Service.of(frontend, SERVERS[0], on_removal="keep"),
        ):
            node.services.set(change)
            index = [backend.address for backend in change.backends].index(SERVERS[0])
            assert node.services.active(frontend)[index] == 2
        node.services.set(Service.of(frontend, "10.0.0.9:1", on_removal="keep"))
        node.services.set(Service.of(frontend, SERVERS[0], on_removal="keep"))
        assert node.services.active(frontend) == [0]
        client.ask()
        assert node.services.active(frontend) == [1]
        client.ask()
        # the old one's sockets must not be taken from the new one's
        assert node.services.active(frontend) == [0]
        client.send()


def test_recounted_at_attach(box: Box, node: Node) -> None:
    """What was opened or closed while nobody looked; see test_sockets_counted."""
    place(box, node)

    def converse(test: Line) -> None:
        clients = [connected(TCP) for _ in range(5)]
        test.ask()
        for client in clients[:3]:
            client.close()
        test.ask()
        for client in clients[3:]:
            client.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        assert counts(node) == [5, 0, 0, 0]
        node.detach()
        client.ask()
        node.attach(cgroup=str(box.cgroup))
        stale = 0 if kernel.counts_sockets() else 3
        assert counts(node) == [2 + stale, 0, 0, 0]
        client.ask()
        assert counts(node) == [stale, 0, 0, 0]
        client.send()


def test_an_upgrade_keeps_counts(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that are replaced under open connections."""
    place(box, node)

    def converse(test: Line) -> None:
        clients = [connected(TCP) for _ in range(5)]
        test.ask()
        for client in clients:
            client.close()
        test.ask()

    with box.talk(converse) as client:
        client.recv()
        # at least the second is in every kernel that counts
        kernel.switch_off(monkeypatch, "set_retval", "netns_cookie")
        assert node.attach(cgroup=str(box.cgroup)).changes
        assert counts(node) == [5, 0, 0, 0]
        client.ask()
        assert counts(node) == [0] * 4
        client.send()


def test_many_that_come_and_go(box: Box, node: Node) -> None:
    """Processes that connect and close beside a writer that takes backends away: none is left."""
    box.serve(*(f"{server}/tcp" for server in SERVERS))
    frontend = "10.96.0.10:80/tcp"
    node.services.add(Service.of(frontend, *SERVERS, on_removal="keep", algorithm="least-conn"))

    def churn(seconds: float) -> int:
        deadline, done = time.monotonic() + seconds, 0
        held: list[socket.socket] = []
        while time.monotonic() < deadline:
            held.append(connected(TCP))
            if len(held) > 10:
                held.pop(done % 10).close()
            done += 1
        return done

    clients = [box.start(churn, scaled(1.5)) for _ in range(4)]
    deadline = time.monotonic() + scaled(1.4)
    number = 0
    while time.monotonic() < deadline:
        number += 1
        left = [server for n, server in enumerate(SERVERS) if n != number % 3]
        node.services.set(Service.of(frontend, *left, on_removal="keep", algorithm="least-conn"))
        assert max(node.services.active(frontend)) < 1 << 32
    assert all(client.result() for client in clients)
    node.services.set(Service.of(frontend, *SERVERS, on_removal="keep"))
    assert node.services.active(frontend) == [0] * 3
