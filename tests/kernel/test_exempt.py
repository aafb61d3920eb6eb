# SPDX-License-Identifier: Apache-2.0
"""Exempt cgroups: their tasks see no service, from their next call on, by whatever socket."""

from __future__ import annotations

import array
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service, errors

from .harness import Box, Line, kernel
from .harness.clients import (
    KINDS,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    Seen,
    ask,
    exchange,
    line,
    new_socket,
    outcome,
    protocol_of,
)
from .harness.host import attach_inside, cgroups, move_to
from .harness.subtrees import NO_CGROUPS, REACHED, SERVER, UNSEEN, VIP, by_cgroup, serve

if TYPE_CHECKING:
    from hostreach.node import Node


def test_exempt_and_below(box: Box, node: Node, tree: dict[str, Path]) -> None:
    """With all below; each is its own entry, and goes by itself."""
    serve(box, node)
    everyone = {*tree}
    for change, path, left in (
        (node.exempt.add, "a/b", everyone - {"a/b", "a/b/c"}),
        (node.exempt.add, "d", {"", "a"}),
        (node.exempt.add, "a", {""}),
        (node.exempt.remove, "a/b", {""}),
        (node.exempt.remove, "a", everyone - {"d"}),
        (node.exempt.add, "a/b/c", everyone - {"d", "a/b/c"}),
        (node.exempt.remove, "d", everyone - {"a/b/c"}),
        (node.exempt.add, "", set()),
        (node.exempt.remove, "", everyone - {"a/b/c"}),
        (node.exempt.remove, "a/b/c", everyone),
    ):
        change(str(tree[path]))
        assert by_cgroup(box, tree) == left, (change.__name__, path)
    assert node.exempt.list() == []


@pytest.mark.parametrize("kind", KINDS)
def test_exempt_at_once(box: Box, node: Node, tree: dict[str, Path], kind: str) -> None:
    """For what begins from then on; what is connected stays so, and shows the service."""
    serve(box, node)

    def converse(test: Line) -> None:
        move_to(tree["a/b"])
        with new_socket(V4, TCP) as tcp, new_socket(V4, UDP_CONNECTED) as udp:
            tcp.connect(VIP)
            udp.connect(VIP)
            assert line(tcp) == SERVER
            while test.recv():
                tcp.send(b"still\n")
                assert line(tcp) == "still"
                assert tcp.getpeername() == kernel.shown(VIP, V4.sockaddr_of(SERVER))
                assert ask(udp) == REACHED
                test.send(outcome(exchange, V4, kind, VIP))

    with box.talk(converse) as client:
        for _ in range(3):
            assert client.ask(True) == REACHED
            node.exempt.add(str(tree["a"]))
            assert client.ask(True) == UNSEEN
            node.exempt.remove(str(tree["a"]))
        assert client.ask(True) == REACHED
        client.send(False)


def test_an_exempt_task_sends_by_an_old_socket(box: Box, node: Node, tree: dict[str, Path]) -> None:
    """Each datagram of an unconnected socket is judged anew."""
    serve(box, node)

    def converse(test: Line) -> None:
        move_to(tree["a"])
        with new_socket(V4, UDP_UNCONNECTED) as client:
            while test.recv():
                test.send(outcome(ask, client, VIP))

    with box.talk(converse) as client:
        assert client.ask(True) == REACHED
        node.exempt.add(str(tree["a"]))
        assert client.ask(True) == UNSEEN
        node.exempt.remove(str(tree["a"]))
        assert client.ask(True) == REACHED
        client.send(False)


def pass_socket(where: socket.socket, what: socket.socket) -> None:
    fds = array.array("i", [what.fileno()])
    where.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def passed_socket(where: socket.socket) -> socket.socket:
    _, ancillary, _, _ = where.recvmsg(1, socket.CMSG_LEN(4))
    fds = array.array("i")
    fds.frombytes(ancillary[0][2])
    return socket.socket(fileno=fds[0])


@pytest.mark.parametrize(
    ("kind", "exempt_maker"),
    [(TCP, True), (TCP, False), (UDP_CONNECTED, True), (UDP_UNCONNECTED, False)],
)
def test_a_passed_socket_follows_the_caller(
    box: Box, node: Node, tree: dict[str, Path], kind: str, exempt_maker: bool
) -> None:
    """Not who made the socket but who connects or sends is exempt, or in the subtree, or not."""
    serve(box, node)
    node.services.add(
        Service.of(
            f"10.96.0.11:80/{protocol_of(kind)}",
            SERVER,
            from_cgroup=str(tree["a" if exempt_maker else "d"]),
        )
    )
    node.exempt.add(str(tree["a"]))
    maker, user = ("a", "d") if exempt_maker else ("d", "a")
    here, there = socket.socketpair()

    def make() -> None:
        move_to(tree[maker])
        for _ in range(2):
            with new_socket(V4, kind) as made:
                pass_socket(there, made)

    def use() -> list[object]:
        move_to(tree[user])
        seen = []
        for vip in (VIP, ("10.96.0.11", 80)):
            with passed_socket(here) as client:
                seen.append(outcome(_converse, client, kind, vip))
        return seen

    box.call(make)
    seen = box.call(use)
    here.close()
    there.close()
    # The second service is the maker's cgroup's alone.
    assert seen == [REACHED if exempt_maker else UNSEEN, UNSEEN]


def _converse(client: socket.socket, kind: str, vip: tuple[str, int]) -> Seen:
    if kind == UDP_UNCONNECTED:
        return ask(client, vip)
    client.connect(vip)
    assert client.getpeername() == kernel.shown(vip, V4.sockaddr_of(SERVER))
    return Seen(line(client), vip) if kind == TCP else ask(client)


def test_exempt_lasts_and_is_refused(box: Box, node: Node, tree: dict[str, Path]) -> None:
    """Adding twice, removing what is not there, no cgroup: one line, and nothing changes."""
    serve(box, node)
    path = str(tree["a"])
    assert node.exempt.add(path) == [path]
    calls: list[tuple[type[Exception], Callable[[], object]]] = [
        (errors.AlreadyExists, lambda: node.exempt.add(path)),
        (errors.AlreadyExists, lambda: node.exempt.add(str(tree["d"]), path)),
        (errors.NotFound, lambda: node.exempt.remove(str(tree["d"]))),
        (errors.NotFound, lambda: node.exempt.remove(path, str(tree["d"]))),
        (errors.InvalidInput, lambda: node.exempt.add("/proc")),
        (errors.InvalidInput, lambda: node.exempt.add(f"{path}/none")),
        (errors.InvalidInput, lambda: node.exempt.add(f"{path}/cgroup.procs")),
    ]
    for kind, call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert node.exempt.list() == [path]
    assert node.exempt.add(path, if_missing=True) == []
    assert node.exempt.remove(str(tree["d"]), if_exists=True) == []
    node.detach()
    attach_inside(box, node)
    assert node.exempt.list() == [path]
    assert by_cgroup(box, tree) == {"", "d"}


def test_an_exempt_cgroup_that_is_gone(box: Box, node: Node) -> None:
    """It is not listed, and no later cgroup of that path is exempt for it."""
    kernel.need(kernel.knows_cgroups(), NO_CGROUPS)
    serve(box, node)
    with cgroups(box.cgroup, "x") as (x,):
        node.exempt.add(str(x))
        assert by_cgroup(box, {"x": x}) == set()
    assert node.exempt.list() == []
    with cgroups(box.cgroup, "x") as (x,):
        assert by_cgroup(box, {"x": x}) == {"x"}
        node.exempt.add(str(x))
        assert node.exempt.list() == [str(x)]
