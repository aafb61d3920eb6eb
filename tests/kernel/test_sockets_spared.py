# SPDX-License-Identifier: Apache-2.0
"""Sockets that are not at the backend that goes, or not by way of its service, are left alone."""

from __future__ import annotations

import errno
import socket
import time
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, Line, kernel
from .harness.clients import (
    FAMILIES,
    TCP,
    UDP_CONNECTED,
    V4,
    V6,
    Family,
    ask,
    new_socket,
)
from .harness.fates import (
    ALIVE,
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

if TYPE_CHECKING:
    from hostreach.node import Node


pytestmark = pytest.mark.usefixtures("ending")

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)

KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])

WAYS = pytest.mark.parametrize("without", ["", "sock_destroy", "btf"], ids=lambda w: w or "bpf")


def straight_there_afterwards(place: Place) -> socket.socket:
    client = disconnected(place)
    place.reach(client, place.direct(place.backends[0]))
    return client


def by_another_service(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.other_vip)
    return client


def by_another_service_afterwards(place: Place) -> socket.socket:
    client = disconnected(place)
    place.reach(client, place.other_vip)
    return client


def elsewhere_afterwards(place: Place) -> socket.socket:
    client = disconnected(place)
    place.reach(client, place.lone)
    return client


def elsewhere_at_once(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.vip)
    if place.kind == UDP_CONNECTED:
        place.reach(client, place.lone)
    return client


def failed_elsewhere(place: Place) -> socket.socket:
    """Connected by another service; a connect by the one that goes is refused."""
    client = by_another_service(place)
    if place.kind == UDP_CONNECTED:
        unroutable = {V6: "fd00:77::1"}.get(place.family, "10.77.0.1")
        assert client.connect_ex(place.family.sockaddr(unroutable, 9)) == errno.ENETUNREACH
    return client


SPARED = (
    disconnected,
    unused,
    straight_there,
    straight_there_afterwards,
    by_another_service,
    by_another_service_afterwards,
    elsewhere_afterwards,
    unconnected,
    failed_elsewhere,
)


@WAYS
@FAMILY
@KIND
def test_spared(
    box: Box, node: Node, family: Family, kind: str, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.switch_off(monkeypatch, without)
    place = Place(box, node, family, kind)

    def converse(test: Line) -> None:
        victim = place.new()
        place.reach(victim, place.vip)
        spared = {make.__name__: make(place) for make in SPARED}
        for client in spared.values():
            fate(client)  # a disconnect of TCP leaves an error to be told
        before = {name: fate(client) for name, client in spared.items()}
        test.ask()
        assert fate(victim) == ENDED
        after = {name: fate(client) for name, client in spared.items()}
        assert after == before
        for name in ("straight_there", "by_another_service", "failed_elsewhere"):
            if kind == UDP_CONNECTED:
                ask(spared[name])
            else:
                spared[name].send(b"still there?")
                assert spared[name].recv(100) == b"still there?"
        # servers' own sockets as well
        with place.new() as late:
            assert place.reach(late, place.other_vip) in place.backends

    with box.talk(converse) as test:
        test.recv()
        node.services.remove(place.frontend)
        assert ended(node) == 1
        test.send()


@FAMILY
def test_reconnected_udp(box: Box, node: Node, family: Family) -> None:
    """Without a disconnect between; and one whose connect elsewhere failed is still there."""
    place = Place(box, node, family, UDP_CONNECTED)
    unroutable = {V6: "fd00:77::1"}.get(family, "10.77.0.1")
    node.services.add(
        Service.of(f"{family.endpoint(family.vip(12), PORT)}/udp", family.endpoint(unroutable, 9))
    )

    def converse(test: Line) -> None:
        elsewhere = elsewhere_at_once(place)
        stayed = place.new()
        place.reach(stayed, place.vip)
        nowhere = family.sockaddr(family.vip(12), PORT)
        assert stayed.connect_ex(nowhere) == errno.ENETUNREACH
        victim = place.new()
        place.reach(victim, place.vip)
        test.ask()
        assert [fate(each) for each in (elsewhere, stayed, victim)] == [ALIVE, ENDED, ENDED]

    with box.talk(converse) as test:
        test.recv()
        node.services.remove(place.frontend)
        assert ended(node) == 2
        test.send()


def test_connecting_while_backends_go(box: Box, node: Node) -> None:
    """No socket may be left at a backend that went while it was being connected."""
    changes = 100 if kernel.remembers_on_sockets() else 30  # a search of the LRU takes its time
    place = Place(box, node, V4, UDP_CONNECTED)
    first, second = place.backends

    def converse(test: Line) -> None:
        sockets: list[socket.socket] = []
        while not test.has_news():
            client = new_socket(V4, UDP_CONNECTED)
            client.connect(place.vip)
            sockets.append(client)
            if len(sockets) > 300:
                sockets.pop(0).close()
        test.recv()
        left = [client for client in sockets if fate(client) == ALIVE]
        test.send((len(sockets), [ask(client).server for client in left]))

    with box.talk(converse) as test:
        for n in range(changes):
            node.services.set(Service.of(place.frontend, (first, second)[n % 2]))
        node.services.set(Service.of(place.frontend, second))
        time.sleep(0.02)
        opened, servers = test.ask()
        assert opened > 100
        assert set(servers) <= {second}
