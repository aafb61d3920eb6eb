# SPDX-License-Identifier: Apache-2.0
"""UDP sockets after connect(AF_UNSPEC), on which no hook runs: what they remember must not lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .harness import Box, linux
from .harness.clients import (
    FAMILIES,
    MAPPED,
    RAW_UNSPEC,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    V4,
    V6,
    Family,
    Seen,
    ask,
    connect,
    new_socket,
    outcome,
    receive,
)
from .harness.two_services import TwoServices

if TYPE_CHECKING:
    from hostreach.node import Node

FAMILY = pytest.mark.parametrize("family", FAMILIES, ids=str)


@FAMILY
def test_disconnected_then_straight_to_the_backend(box: Box, node: Node, family: Family) -> None:
    """No hook runs on connect(AF_UNSPEC): what the socket remembers must not lie afterwards."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            server = ask(client).server
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            assert outcome(client.getpeername) == "ENOTCONN"
            assert ask(client, place.direct(server)) == place.once_connected(server)
            connect(client, place.vip)
            seen = ask(client)
            assert client.getpeername()[:2] == place.shown(seen.server)
            assert seen.peer == place.vip

    box.call(converse)


@FAMILY
def test_disconnected_then_to_the_service_again(box: Box, node: Node, family: Family) -> None:
    """An IPv6 socket still hears nobody but its former peer, so that is where it must be sent."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        for _ in range(3):
            with new_socket(family, UDP_CONNECTED) as client:
                connect(client, place.vip)
                first = ask(client)
                linux.connect_raw(client.fileno(), RAW_UNSPEC)
                for _ in range(3):
                    seen = ask(client, place.vip)
                    assert seen.peer == place.vip
                    assert seen.server in place.first
                direct = place.direct(seen.server)
                assert ask(client, direct) == place.once_connected(seen.server)
                assert ask(client, place.vip) == seen
                assert first.peer == place.vip

    box.call(converse)


@pytest.mark.parametrize("family", [V4, MAPPED], ids=str)
def test_disconnected_then_elsewhere(box: Box, node: Node, family: Family) -> None:
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            server = ask(client).server
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            for _ in range(2):
                assert ask(client, place.other_vip).peer == place.other_vip
                assert ask(client, place.lone) == Seen(place.lone_server, place.lone)
                assert ask(client, place.direct(server)) == place.once_connected(server)
                assert ask(client, place.vip).peer == place.vip

    box.call(converse)


@FAMILY
def test_disconnected_then_connected_straight_to_the_backend(
    box: Box, node: Node, family: Family
) -> None:
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            connect(client, place.vip)
            server = ask(client).server
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            connect(client, place.direct(server))
            assert client.getpeername()[:2] == place.direct(server)
            assert ask(client) == Seen(server, place.direct(server))

    box.call(converse)


@FAMILY
def test_answer_queued_before_the_disconnect(box: Box, node: Node, family: Family) -> None:
    """Whatever is shown is the service or the backend, and later sends are shown rightly."""
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_CONNECTED) as client:
            server = place.queue_answer(client)
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            source = receive(client)[1][:2]
            assert source in (place.vip, place.direct(server))
            assert ask(client, place.direct(server)) == place.once_connected(server)

    box.call(converse)


@FAMILY
def test_unconnected_use_before_the_connect(box: Box, node: Node, family: Family) -> None:
    place = TwoServices(box, node, family)

    def converse() -> None:
        with new_socket(family, UDP_UNCONNECTED) as client:
            early = ask(client, place.vip)
            connect(client, place.vip)
            connected = {ask(client) for _ in range(10)}
            assert len(connected) == 1
            assert connected.pop().peer == place.vip
            linux.connect_raw(client.fileno(), RAW_UNSPEC)
            if family is V6:
                return  # hears nobody but its former peer, with or without hostreach
            late = {ask(client, place.vip) for _ in range(10)}
            assert late == {early}, "an unconnected socket keeps its backend"

    box.call(converse)
