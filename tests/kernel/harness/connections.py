# SPDX-License-Identifier: Apache-2.0
"""Services whose open connections are counted, and their clients."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from hostreach import Service

from . import Box, Line, wait_until
from .clients import TCP, V4, connect, new_socket

if TYPE_CHECKING:
    from hostreach.node import Node

SERVERS = ["10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080"]
VIPS = [(f"10.96.0.{n}", 80) for n in (10, 11, 12)]


def place(box: Box, node: Node, kind: str = TCP) -> None:
    """Three services, with one backend each; and one whose backend refuses, and an empty one."""
    protocol = kind.partition("-")[0]
    box.serve(*(f"{server}/{protocol}" for server in SERVERS))
    for (host, port), server in zip(VIPS, SERVERS, strict=True):
        node.services.add(Service.of(f"{host}:{port}/{protocol}", server))
    node.services.add(Service.of(f"10.96.0.20:80/{protocol}", "10.0.0.2:9"))
    node.services.add(Service.of(f"10.96.0.21:80/{protocol}"))


def counts(node: Node) -> list[int]:
    """Of all services' backends, in their order."""
    return [n for each in node.services for n in node.services.active(each.frontend)]


def check(box: Box, node: Node, function: Callable[[Line], object], *expected: list[int]) -> None:
    """function(line) calls line.ask() wherever the counts are expected to be the next ones."""
    with box.talk(function) as client:
        for number, each in enumerate(expected):
            client.recv()
            seen = counts(node)
            assert seen == each, f"at {number}: {seen}, not {each}"
            client.send()
    wait_until(lambda: not any(counts(node)), "nothing counted after the client's end")


def connected(kind: str, vip: tuple[str, int] = VIPS[0]) -> socket.socket:
    client = new_socket(V4, kind)
    connect(client, vip)
    return client
