# SPDX-License-Identifier: Apache-2.0
"""Sockets that the kernel itself connects, as for NFS and L2TP: no program is told of their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel, wait_until

if TYPE_CHECKING:
    from hostreach.node import Node

FRONTEND = "10.96.0.10:1701/udp"
BACKEND = "10.0.0.2:1702"
_MODULE = Path("/sys/module/l2tp_netlink")


def ip(box: Box, command: str) -> str:
    done = box.run(["ip", *command.split()])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def l2tp(box: Box) -> None:
    # where the kernel has it, what `ip` cannot do is a failure
    has = _MODULE.exists() or box.run(["ip", "l2tp", "show", "tunnel"]).returncode == 0
    kernel.need(has, "L2TP")
    kernel.need(kernel.knows_its_own(), "way to tell its own sockets")


@contextmanager
def tunnel(box: Box) -> Iterator[None]:
    """A socket of the kernel's, connected to the service by whom asks for a tunnel."""
    ends = "local 10.0.0.1 remote 10.96.0.10 udp_sport 1700 udp_dport 1701"
    ip(box, f"l2tp add tunnel tunnel_id 1 peer_tunnel_id 1 encap udp {ends}")
    assert sockets(box) == 1
    yield
    ip(box, "l2tp del tunnel tunnel_id 1")
    wait_until(lambda: not sockets(box), "the tunnel's socket is there for ever")


def sockets(box: Box) -> int:
    """How many are connected to the backend."""
    return box.run(["ss", "-Hun", "dst", BACKEND]).stdout.count("\n")


def test_nothing_is_left_of_one(box: Box, node: Node) -> None:
    """It is translated, and remembered for as long as it lives; it does not count."""
    node.services.add(Service.of(FRONTEND, BACKEND))
    for _ in range(2):
        with tunnel(box):
            assert node.services.active(FRONTEND) == [0]
        assert node.services.active(FRONTEND) == [0]
    with tunnel(box):
        if kernel.counts_at_detach() and kernel.has("btf"):
            assert node.detach().sockets == 1
    if kernel.counts_at_detach():
        assert node.detach().sockets == 0
