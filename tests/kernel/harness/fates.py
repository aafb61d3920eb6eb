# SPDX-License-Identifier: Apache-2.0
"""Clients of a service whose backends go, and what becomes of their sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hostreach import Service

from . import linux
from .box import Box
from .clients import (
    RAW_UNSPEC,
    TCP,
    UDP_CONNECTED,
    UDP_UNCONNECTED,
    Family,
    ask,
    connect,
    line,
    new_socket,
    outcome,
    protocol_of,
)
from .line import Line

if TYPE_CHECKING:
    from hostreach.node import Node


PORT = 53

ENDED = "ECONNABORTED"

ALIVE = "EAGAIN"


class Place:
    """One service with two backends, another that shares them, and a server without a service."""

    def __init__(
        self, box: Box, node: Node, family: Family, kind: str, on_removal: str | None = "reset"
    ) -> None:
        self.family, self.kind, self.node, self.box = family, kind, node, box
        protocol = protocol_of(kind)
        self.backends = [family.endpoint(family.backend(n), 8053) for n in (2, 3)]
        self.lone_server = family.endpoint(family.backend(4), 8053)
        box.serve(*(f"{server}/{protocol}" for server in (*self.backends, self.lone_server)))
        self.frontend = f"{family.endpoint(family.vip(10), PORT)}/{protocol}"
        self.other = f"{family.endpoint(family.vip(11), PORT)}/{protocol}"
        node.services.add(Service.of(self.frontend, *self.backends, on_removal=on_removal))
        node.services.add(Service.of(self.other, *self.backends, on_removal=on_removal))
        self.vip = family.sockaddr(family.vip(10), PORT)
        self.other_vip = family.sockaddr(family.vip(11), PORT)
        self.lone = family.sockaddr(family.backend(4), 8053)

    def direct(self, server: str) -> tuple[str, int]:
        return self.family.sockaddr_of(server)

    def new(self) -> socket.socket:
        return new_socket(self.family, self.kind)

    def reach(self, client: socket.socket, address: tuple[str, int]) -> str:
        """Connects; the server that answers."""
        connect(client, address)
        return line(client) if self.kind == TCP else ask(client).server

    @contextmanager
    def clients(self, count: int = 8) -> Iterator[tuple[Line, list[str]]]:
        """That many connected sockets in the box, and where each was sent; then ask for fates."""

        def converse(test: Line) -> None:
            sockets = [self.new() for _ in range(count)]
            test.send([self.reach(client, self.vip) for client in sockets])
            while test.recv() == "fates":
                test.send([fate(client) for client in sockets])

        with self.box.talk(converse) as test:
            yield test, test.recv()
            test.send("enough")


def fate(client: socket.socket) -> object:
    """The error that a socket has to tell, or ALIVE."""
    return outcome(client.recv, 100, socket.MSG_DONTWAIT)


def ended(node: Node) -> int:
    """How many sockets the last change ended."""
    return len(node.last_ended.sockets) if node.last_ended else 0


def disconnected(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.vip)
    linux.connect_raw(client.fileno(), RAW_UNSPEC)
    return client


def unused(place: Place) -> socket.socket:
    return place.new()


def straight_there(place: Place) -> socket.socket:
    client = place.new()
    place.reach(client, place.direct(place.backends[0]))
    return client


def unconnected(place: Place) -> socket.socket:
    client = new_socket(place.family, UDP_UNCONNECTED)
    if place.kind == UDP_CONNECTED:
        for _ in range(4):
            ask(client, place.vip)
    return client
