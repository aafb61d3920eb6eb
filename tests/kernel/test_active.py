# SPDX-License-Identifier: Apache-2.0
"""Open connections by backend: a socket counts once, from its selection to its last close."""

from __future__ import annotations

import array
import os
import signal
import socket
import time
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
from .harness.connections import SERVERS, VIPS, check, connected, counts, place

if TYPE_CHECKING:
    from hostreach.node import Node

pytestmark = pytest.mark.usefixtures("counting")

CONNECTED = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])


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
