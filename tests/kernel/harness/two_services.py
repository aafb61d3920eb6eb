# SPDX-License-Identifier: Apache-2.0
"""Two UDP services, and their servers."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hostreach import Service

from . import Box, Servers, kernel
from .clients import Family, Seen, connect, fresh_payload, wait_readable

if TYPE_CHECKING:
    from hostreach.node import Node

PORT = 53
BACKENDS = 8  # so that a new choice differs from the old one 7 times of 8


class TwoServices:
    """Two services with BACKENDS servers each, and one more server without a service."""

    def __init__(self, box: Box, node: Node, family: Family) -> None:
        endpoints = [family.endpoint(family.backend(n), 8053) for n in range(2, 3 + 2 * BACKENDS)]
        self.first, self.second = endpoints[:BACKENDS], endpoints[BACKENDS:-1]
        self.lone_server = endpoints[-1]
        self.servers: Servers = box.serve(*(f"{endpoint}/udp" for endpoint in endpoints))
        for number, backends in ((10, self.first), (11, self.second)):
            frontend = f"{family.endpoint(family.vip(number), PORT)}/udp"
            node.services.add(Service.of(frontend, *backends))
        self.vip = family.sockaddr(family.vip(10), PORT)
        self.other_vip = family.sockaddr(family.vip(11), PORT)
        self.lone = family.sockaddr(family.backend(2 + 2 * BACKENDS), 8053)
        self.family = family

    def direct(self, server: str) -> tuple[str, int]:
        return self.family.sockaddr_of(server)

    def shown(self, server: str) -> tuple[str, int]:
        """The peer's address, of a socket that the first service sent to this server."""
        return kernel.shown(self.vip, self.direct(server))

    def queue_answer(self, client: socket.socket) -> str:
        """Connected to the first service; which server's answer waits to be received."""
        connect(client, self.vip)
        payload = fresh_payload()
        client.send(payload.encode())
        server = self.servers.wait_for(payload)  # which writes that down before it answers
        wait_readable(client)
        return server

    def once_connected(self, server: str) -> Seen:
        """Asked straight, after connect(AF_UNSPEC), by a socket that the first service sent there.

        Where no hook sees what a socket is connected to, it still is shown the service.
        """
        knows = kernel.remembers_on_sockets()
        return Seen(server, self.direct(server) if knows else self.vip)
