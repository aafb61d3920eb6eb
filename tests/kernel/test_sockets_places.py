# SPDX-License-Identifier: Apache-2.0
"""Sockets are looked for in every network namespace, whatever holds it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from .harness import Box, Line
from .harness.clients import UDP_CONNECTED, V4
from .harness.fates import ALIVE, ENDED, Place, ended, fate
from .harness.namespace import NetNamespace

if TYPE_CHECKING:
    from hostreach.node import Node


WAYS = pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")


def many_namespaces(place: Place, test: Line) -> None:
    """A socket in each of several namespaces that this process is in or not in any more."""
    places = [NetNamespace() for _ in range(4)]
    sockets = []
    for namespace in places:
        namespace.enter()
        client = place.new()
        client.connect(place.vip)
        sockets.append(client)
    for namespace in places[2:]:
        namespace.close()  # now only its socket holds it
    test.ask()
    test.send([fate(client) for client in sockets])


@WAYS
def test_every_namespace(
    box: Box, node: Node, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTREACH_WITHOUT", without)
    place = Place(box, node, V4, UDP_CONNECTED)
    with box.talk(lambda test: many_namespaces(place, test)) as test, place.clients() as (main, _):
        test.recv()
        node.services.remove(place.frontend)
        assert ended(node) == 12
        assert node.last_ended
        assert len({each.netns for each in node.last_ended.sockets}) == 5
        assert node.last_ended.namespaces >= 5
        assert set(main.ask("fates")) == {ENDED}
        assert set(test.ask()) == {ENDED}


def test_namespace_out_of_reach(box: Box, node: Node) -> None:
    """A socket that is under way between two processes is in nobody's table of files."""
    place = Place(box, node, V4, UDP_CONNECTED)

    def converse(test: Line) -> None:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        namespace = NetNamespace()
        namespace.enter()
        with place.new() as client:
            client.connect(place.vip)
            socket.send_fds(here, [b"x"], [client.fileno()])
        box.enter()
        namespace.close()
        test.ask()
        _, fds, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=fds[0]) as client:
            test.send(fate(client))
            test.recv()
            test.send(fate(client))

    with box.talk(converse) as test:
        test.recv()
        node.services.remove(place.frontend)
        result = node.last_ended
        assert result
        assert (result.sockets, result.unreachable, result.left) == ([], 1, 1)
        assert test.ask() == ALIVE
        assert len(node.end_sockets().sockets) == 1  # now it can be found
        assert test.ask() == ENDED
