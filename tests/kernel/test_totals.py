# SPDX-License-Identifier: Apache-2.0
"""What was translated and refused since the tables were made: no total falls when a service goes,
for whoever collects them would take that for a new beginning."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import hostreach
from hostreach import Service
from hostreach.node import Capacities, Node

from .harness import Box
from .harness.clients import TCP, V4, exchange, outcome

FEW = Capacities(services=2, backends=16, slots=64)
MORE = Capacities(services=4, backends=16, slots=64)


@pytest.fixture
def few(box: Box) -> Iterator[Node]:
    box.serve("10.0.0.2:80/tcp")
    with hostreach.open(str(box.pin), capacities=FEW) as node:
        node.attach(cgroup=str(box.cgroup))
        yield node


def call(box: Box, number: int, times: int) -> None:
    for _ in range(times):
        box.call(outcome, exchange, V4, TCP, (f"10.96.0.{number}", 80))


def totals(box: Box) -> tuple[int, int]:
    with hostreach.open(str(box.pin)) as another:
        status = another.status()
        return status.translations, status.refusals


def test_stay_when_services_go(box: Box, few: Node) -> None:
    served, empty = Service.of("10.96.0.1:80/tcp", "10.0.0.2:80"), Service.of("10.96.0.2:80/tcp")
    few.services.apply([served, empty])
    call(box, 1, 3)
    call(box, 2, 2)
    assert totals(box) == (3, 2)
    few.services.remove("10.96.0.1:80/tcp")
    assert totals(box) == (3, 2)
    for number in range(3, 9):  # indexes come back
        frontend = f"10.96.0.{number}:80/tcp"
        few.services.add(Service.of(frontend, "10.0.0.2:80"))
        assert few.traffic([frontend]) == [(0, 0)]
        call(box, number, 1)
        few.services.remove(frontend)
        assert totals(box) == (3 + number - 2, 2)
    few.services.remove("10.96.0.2:80/tcp")
    with hostreach.open(str(box.pin), capacities=MORE) as larger:
        assert larger.attach(cgroup=str(box.cgroup)).grown
    assert totals(box) == (9, 2)
    few.services.apply([Service.of(f"10.96.1.{n}:80/tcp", "10.0.0.2:80") for n in range(4)])
    assert totals(box) == (9, 2)
