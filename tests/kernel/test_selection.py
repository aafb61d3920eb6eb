# SPDX-License-Identifier: Apache-2.0
"""Backends get the shares that their weights promise."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box
from .harness.clients import KINDS, UDP_CONNECTED, V4, ask, connect, exchange, new_socket

if TYPE_CHECKING:
    from hostreach.node import Node

SELECTIONS = 2000

# Of chi-square with n degrees of freedom: exceeded once in a million runs.
CRITICAL = {1: 23.93, 2: 27.63, 3: 30.66, 9: 45.08}


def chi_square(counts: Counter[str], weights: dict[str, int]) -> float:
    total, of = sum(counts.values()), sum(weights.values())
    expected = {server: total * weight / of for server, weight in weights.items()}
    return sum((counts[server] - want) ** 2 / want for server, want in expected.items() if want)


def place(box: Box, node: Node, weights: list[int], protocol: str) -> dict[str, int]:
    servers = {f"10.0.0.{number}:8053": weight for number, weight in enumerate(weights, 2)}
    box.serve(*(f"{server}/{protocol}" for server in servers))
    backends = [f"{server},weight={weight}" for server, weight in servers.items()]
    node.services.add(Service.of(f"10.96.0.10:53/{protocol}", *backends))
    return servers


@pytest.mark.parametrize(
    "weights",
    [[1, 3], [2, 6], [1, 0, 3], [1, 1, 2, 4], [1] * 10, [65535, 65535], [21845, 65535, 43690]],
    ids=lambda weights: ":".join(map(str, weights)),
)
def test_shares_follow_weights(box: Box, node: Node, weights: list[int]) -> None:
    servers = place(box, node, weights, "udp")

    def choose() -> Counter[str]:
        counts: Counter[str] = Counter()
        with new_socket(V4, UDP_CONNECTED) as client:
            for _ in range(SELECTIONS):
                connect(client, ("10.96.0.10", 53))  # a new choice each time
                counts[ask(client).server] += 1
        return counts

    counts = box.call(choose, timeout=60)
    used = {server: weight for server, weight in servers.items() if weight}
    assert set(counts) == set(used)
    assert chi_square(counts, used) < CRITICAL[len(used) - 1], counts


@pytest.mark.parametrize("kind", KINDS)
def test_new_sockets_choose_anew(box: Box, node: Node, kind: str) -> None:
    """One to three, for every kind of socket."""
    servers = place(box, node, [1, 3], kind.partition("-")[0])

    def choose() -> Counter[str]:
        vip = ("10.96.0.10", 53)
        return Counter(exchange(V4, kind, vip).server for _ in range(SELECTIONS))

    counts = box.call(choose, timeout=60)
    assert chi_square(counts, servers) < CRITICAL[1], counts
