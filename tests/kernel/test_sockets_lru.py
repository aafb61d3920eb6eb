# SPDX-License-Identifier: Apache-2.0
"""Where one LRU remembers for all sockets, those that are closed are not looked for for ever."""

from __future__ import annotations

import time

import pytest

from hostreach import Service

from .harness import Box, Line, kernel
from .harness.clients import UDP_CONNECTED, V4, Seen, ask, connect, new_socket
from .harness.host import opened
from .harness.rawmap import RawMap

VIP = ("10.96.0.10", 53)
FRONTEND = "10.96.0.10:53/udp"
SERVERS = ("10.0.0.2:8053", "10.0.0.3:8053")
BY_PEER, BY_CONNECTED = 2, 3
ON_ITS_WAY_NO_MORE = 10  # seconds: kOnItsWayNoMore of cpp/overflow.cpp

BATCH = pytest.mark.parametrize("without", ["", "batch"], ids=["batches", "singly"])


def remembered(box: Box) -> dict[int, int]:
    """Kind -> how many connections the LRU has."""
    with RawMap.pinned(box.pin / "overflow") as lru:
        kinds = [int.from_bytes(key[26:28], "little") for key in lru]
    return {kind: kinds.count(kind) for kind in (BY_PEER, BY_CONNECTED)}


@BATCH
def test_closed_sockets_are_forgotten(
    box: Box, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once they were looked for twice and long enough; who lives elsewhere is remembered."""
    kernel.switch_off(monkeypatch, "sk_storage", without)
    kernel.need(kernel.ends_sockets(), "way to end sockets")

    def converse(test: Line) -> None:
        with new_socket(V4, UDP_CONNECTED) as client:
            connect(client, VIP)
            while test.recv():
                test.send(ask(client))

    def come_and_go(count: int) -> None:
        for _ in range(count):
            with new_socket(V4, UDP_CONNECTED) as client:
                client.connect(VIP)

    def change(server: str) -> None:
        node.services.set(Service.of(FRONTEND, server, on_removal="reset"))

    with opened(box) as node:
        node.attach(cgroup=str(box.cgroup))
        box.serve(*(f"{server}/udp" for server in SERVERS))
        change(SERVERS[0])
        box.call(come_and_go, 50)
        change(SERVERS[1])  # looks for the fifty
        with box.talk(converse) as client:
            assert client.ask(True) == Seen(SERVERS[1], VIP)
            assert remembered(box) == {BY_PEER: 51, BY_CONNECTED: 51}
            node.services.add(Service.of("10.96.0.11:53/udp", SERVERS[0], on_removal="reset"))
            node.services.remove("10.96.0.11:53/udp")
            assert remembered(box)[BY_PEER] == 51, "one may be on its way"
            time.sleep(ON_ITS_WAY_NO_MORE + 0.5)
            node.services.add(Service.of("10.96.0.11:53/udp", SERVERS[0], on_removal="reset"))
            node.services.remove("10.96.0.11:53/udp")
            assert remembered(box) == {BY_PEER: 1, BY_CONNECTED: 1}
            assert client.ask(True) == Seen(SERVERS[1], VIP)
            client.send(False)
