# SPDX-License-Identifier: Apache-2.0
"""Servers that say who they are: one process answers for many backends.

TCP: the server's own endpoint and a newline on accept, then whatever the client sends.
UDP: the server's own endpoint, a blank, and the payload it got.
What each one got is also written down, for answers that no client can see.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from . import child
from .timing import scaled, wait_until


class Got(NamedTuple):
    server: str
    payload: str


def split(endpoint: str) -> tuple[str, int, str]:
    """ "[fd00::2]:53/udp" -> ("fd00::2", 53, "udp")."""
    place, _, protocol = endpoint.partition("/")
    host, _, port = place.rpartition(":")
    return host.strip("[]"), int(port), protocol


class Servers:
    def __init__(
        self, enter: Callable[[], None], endpoints: Iterable[str], *, reuse_port: bool
    ) -> None:
        self._log = os.memfd_create("got")
        endpoints = tuple(endpoints)

        def body(ready: int) -> None:
            loop = _Loop(self._log)
            for endpoint in endpoints:
                loop.listen(endpoint, reuse_port=reuse_port)
            os.write(ready, b"!")
            loop.run()

        self.pid, ready = child.start(enter, body)
        try:
            os.set_blocking(ready, False)
            wait_until(lambda: _peek(ready), f"servers on {endpoints}", seconds=10)
        finally:
            os.close(ready)

    def got(self) -> list[Got]:
        """Each datagram and each accepted connection (payload "connection"), in order."""
        size = os.fstat(self._log).st_size
        lines = os.pread(self._log, size, 0).decode().splitlines()
        return [Got(*line.split(" ", 1)) for line in lines]

    def wait_for(self, payload: str) -> str:
        """The server that got a datagram with this payload."""

        def found() -> list[str]:
            return [got.server for got in self.got() if got.payload == payload]

        wait_until(found, f"a server getting {payload!r}")
        return found()[0]

    def stop(self) -> None:
        child.stop(self.pid)
        if self._log >= 0:
            os.close(self._log)
            self._log = -1


def _peek(pipe: int) -> bool:
    try:
        answer = os.read(pipe, 1)
    except BlockingIOError:
        return False
    if not answer:
        raise RuntimeError("the servers could not start (see stderr)")
    return True


class _Loop:
    def __init__(self, log: int) -> None:
        self._log = log
        self._selector = selectors.DefaultSelector()

    def listen(self, endpoint: str, *, reuse_port: bool) -> None:
        host, port, protocol = split(endpoint)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        server = socket.socket(family, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind((host, port))
        server.setblocking(False)
        identity = endpoint.partition("/")[0]
        if protocol == "tcp":
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 64)
            server.listen(1024)
            handle = lambda: self._accept(server, identity)  # noqa: E731
        else:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            handle = lambda: self._answer(server, identity)  # noqa: E731
        self._selector.register(server, selectors.EVENT_READ, handle)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(scaled(60)):
                # A client that is gone must not end the others' server.
                with contextlib.suppress(OSError):
                    key.data()

    def _accept(self, server: socket.socket, identity: str) -> None:
        connection, _ = server.accept()
        self._write_down(identity, "connection")
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._echo(connection))
        connection.send(f"{identity}\n".encode())

    def _echo(self, connection: socket.socket) -> None:
        data = b""
        try:
            data = connection.recv(65536)
            if data:
                connection.send(data)
        finally:
            if not data:
                self._selector.unregister(connection)
                connection.close()

    def _answer(self, server: socket.socket, identity: str) -> None:
        payload, client = server.recvfrom(65536)
        self._write_down(identity, payload.decode())
        server.sendto(f"{identity} {payload.decode()}".encode(), client)

    def _write_down(self, identity: str, payload: str) -> None:
        os.write(self._log, f"{identity} {payload}\n".encode())
