# SPDX-License-Identifier: Apache-2.0
"""Open connections are counted anew when programs are attached, and told when they go."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Capacities, Service

from .harness import Box, Line, kernel, wait_until
from .harness.clients import FAMILIES, TCP, UDP_CONNECTED, V4, Family
from .harness.fates import (
    ENDED,
    PORT,
    Place,
    disconnected,
    ended,
    fate,
    straight_there,
    unconnected,
    unused,
)
from .harness.rawmap import RawMap

if TYPE_CHECKING:
    from hostreach.node import Node


FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)

LEVELS = 44
"""Where `exempt_levels` is in struct hr_meta."""
KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])


def counts(node: Node, frontend: str) -> int:
    return sum(node.services.active(frontend))


@pytest.mark.usefixtures("counting")
@KIND
def test_counted_anew(box: Box, node: Node, kind: str) -> None:
    """What closed while nobody was attached is not counted any more.

    Where the kernel lets nobody go over sockets it is counted for good, and detach cannot tell.
    """
    place = Place(box, node, V4, kind)

    def converse(test: Line) -> None:
        sockets = [place.new() for _ in range(5)]
        for client in sockets:
            place.reach(client, place.vip)
        while sockets:
            test.ask()
            sockets.pop().close()
        test.ask()

    with box.talk(converse) as test:
        test.recv()
        assert counts(node, place.frontend) == 5
        assert node.detach().sockets == (5 if kernel.counts_at_detach() else None)
        for _ in range(2):
            test.ask()
        assert counts(node, place.frontend) == 5
        node.attach(cgroup=str(box.cgroup))
        stale = 0 if kernel.counts_sockets() else 2
        assert counts(node, place.frontend) == 3 + stale
        for left in (2, 1, 0):
            test.ask()
            assert counts(node, place.frontend) == left + stale
        test.send()


@FAMILY
@KIND
def test_detach_counts(box: Box, node: Node, family: Family, kind: str) -> None:
    place = Place(box, node, family, kind)

    def converse(test: Line) -> None:
        first, second = place.new(), place.new()
        place.reach(first, place.vip)
        place.reach(second, place.other_vip)
        spared = [disconnected(place), unused(place), straight_there(place), unconnected(place)]
        test.ask(len(spared))

    with box.talk(converse) as test:
        test.recv()
        assert node.detach().sockets == (2 if kernel.counts_at_detach() else None)
        assert node.detach().sockets == 0
        test.send()


@pytest.mark.usefixtures("ending")
def test_ended_and_counted(box: Box, node: Node) -> None:
    """An ended socket counts until its client closes it, as every other does."""
    place = Place(box, node, V4, UDP_CONNECTED)
    with place.clients() as (test, _):
        for backend in place.backends:
            node.services.set_backend(place.frontend, f"{backend},state=down")
        assert (counts(node, place.frontend) > 0) is kernel.counts_connections()
        assert set(test.ask("fates")) == {ENDED}
    wait_until(lambda: counts(node, place.frontend) == 0, "no count below zero")


@pytest.mark.usefixtures("ending")
def test_an_id_that_is_given_out_again_at_once(box: Box) -> None:
    """Its count begins at nothing, and those that it had are ended all the same."""

    def converse(test: Line) -> None:
        client = socket.socket(type=socket.SOCK_DGRAM)
        client.connect(("10.96.0.3", PORT))
        test.ask()
        test.send(fate(client))

    def service(number: int) -> Service:
        return Service.of(f"10.96.0.{number}:{PORT}/udp", f"10.0.0.{number}:{PORT}")

    with hostreach.open(str(box.pin), capacities=Capacities(8, 1)) as node:
        node.attach(cgroup=str(box.cgroup))
        for number in (1, 2, 3):
            node.services.apply([service(number)], prune=True)
        with box.talk(converse) as test:
            test.recv()
            node.services.apply([service(4)], prune=True)
            assert ended(node) == 1
            assert test.ask() == ENDED
        node.detach()


def test_an_exemption_that_is_there_already_counts(box: Box, node: Node) -> None:
    """Programs look where the levels say; who was killed on the way may have left none."""
    kernel.need(kernel.knows_cgroups(), "the id of a task's cgroup")
    node.exempt.add(str(box.cgroup))
    with RawMap.pinned(box.pin / "meta") as meta:
        before = meta[0]
        meta[0] = before[:LEVELS] + bytes(4) + before[LEVELS + 4 :]
        assert not node.exempt.add(str(box.cgroup), if_missing=True)
        assert meta[0] == before
