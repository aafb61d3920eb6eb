# SPDX-License-Identifier: Apache-2.0
"""Which backends are chosen, by the hundred thousand and without a server behind them.

An instance that is attached without its getpeername hook lets a client see where its connect went.
"""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

from . import kernel

if TYPE_CHECKING:
    from hostreach.node import Node

    from .box import Box

VIP = ("10.96.0.10", 53)
FRONTEND = "10.96.0.10:53/udp"


def attach_blind(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch, *without: str) -> None:
    """getpeername tells the truth from now on."""
    kernel.switch_off(monkeypatch, "getpeername", *without)
    node.attach(cgroup=str(box.cgroup))


def backends(count: int) -> list[str]:
    return [f"10.0.0.{number}:8053" for number in range(2, 2 + count)]


def given(client: socket.socket) -> str:
    """The backend that a client of such an instance is connected to."""
    host, port = client.getpeername()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def new_client() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def choose(count: int, vip: tuple[str, int] = VIP) -> Counter[str]:
    """Where this many connects of one UDP socket go."""
    chosen: Counter[tuple[str, int]] = Counter()
    with new_client() as client:
        for _ in range(count):
            client.connect(vip)
            chosen[client.getpeername()] += 1
    return Counter({f"{host}:{port}": number for (host, port), number in chosen.items()})


def choose_one(vip: tuple[str, int] = VIP) -> str:
    """Where one new socket goes."""
    with new_client() as client:
        client.connect(vip)
        return given(client)


def chi_square(counts: Counter[str], weights: Sequence[int], names: Sequence[str]) -> float:
    total, of = sum(counts.values()), sum(weights)
    expected = {n: total * w / of for n, w in zip(names, weights, strict=True) if w}
    assert set(counts) <= set(expected), "a backend without a share was chosen"
    return sum((counts[name] - want) ** 2 / want for name, want in expected.items())


def critical(freedom: int) -> float:
    """What chi-square exceeds once in a million runs (Wilson and Hilferty's approximation)."""
    z = 4.753
    return freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3
