# SPDX-License-Identifier: Apache-2.0
"""A line between a test and its child, to take turns: one changes services, one uses sockets."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from .timing import scaled


class Line:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def send(self, value: object = None) -> None:
        self._connection.send(value)

    def recv(self) -> Any:
        """What the other end sent next; EOFError once it is gone."""
        if not self._connection.poll(scaled(15)):
            raise TimeoutError("the other end of the line says nothing")
        return self._connection.recv()

    def wait(self) -> Any:
        """As recv, however long it takes; None once the other end is gone."""
        try:
            return self._connection.recv()
        except EOFError:
            return None

    def has_news(self) -> bool:
        return self._connection.poll()

    def ask(self, value: object = None) -> Any:
        self.send(value)
        return self.recv()

    def poll(self) -> bool:
        """Has the other end said something, or gone?"""
        return self._connection.poll()

    def close(self) -> None:
        self._connection.close()


def pair() -> tuple[Line, Line]:
    one, other = Pipe()
    return Line(one), Line(other)
