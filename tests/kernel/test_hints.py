# SPDX-License-Identifier: Apache-2.0
"""Where programs found services last: it makes them quicker, and may lead them nowhere else."""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel
from .harness.clients import TCP, UDP_CONNECTED, UDP_UNCONNECTED, V4, Seen, exchange, outcome
from .harness.rawmap import RawMap

if TYPE_CHECKING:
    from hostreach.node import Node

HINT = struct.Struct("=QII")  # hr_record.set as it was, the index and one, where backends may be
RECORD = struct.Struct("=Q24x")
KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED, UDP_UNCONNECTED])
FRONTENDS = [f"10.96.0.{n}:80" for n in range(1, 5)]


class Hints:
    def __init__(self, map_: RawMap) -> None:
        self._map = map_

    def there(self) -> dict[int, int]:
        """By index of the service, its publishing word as it was."""
        all_ = HINT.iter_unpack(self._map.elements())
        return {service - 1: word for word, service, _ in all_ if service}

    def fill(self, service: int, word: int = 0, backend: int = 0) -> None:
        """All of them: an index and one, the publishing word, and an id in the first slot."""
        self._map.fill(HINT.pack(word, service, backend))


@pytest.fixture
def hints(box: Box, node: Node) -> Iterator[Hints]:
    kernel.need(node.status().cgroup != "", "an attachment")
    kernel.need(kernel.has("mmap") and kernel.has("global_data"), "mapped arrays")
    kernel.need(kernel.has("batch"), "arrays read and written whole")
    kernel.need(platform.machine() in ("x86_64", "s390x"), "loads in order")
    box.serve(*(f"10.0.0.{n}:80/{protocol}" for n in range(2, 6) for protocol in ("tcp", "udp")))
    with RawMap.pinned(box.pin / "hints") as found:
        hints = Hints(found)
        hints.fill(0)  # in guests the instance is of other tests, too
        yield hints


def published(box: Box, index: int) -> int:
    with RawMap.pinned(box.pin / "records") as records:
        word: int = RECORD.unpack(records[index])[0]
    return word


def service(number: int, kind: str, server: int) -> Service:
    protocol = "tcp" if kind == TCP else "udp"
    return Service.of(f"{FRONTENDS[number]}/{protocol}", f"10.0.0.{server}:80")


def reached(box: Box, number: int, kind: str) -> object:
    return box.call(outcome, exchange, V4, kind, (FRONTENDS[number].partition(":")[0], 80))


def seen(number: int, server: int) -> Seen:
    return Seen(f"10.0.0.{server}:80", (FRONTENDS[number].partition(":")[0], 80))


@KIND
def test_left_by_the_first_call(box: Box, node: Node, hints: Hints, kind: str) -> None:
    node.services.apply([service(0, kind, 2), service(1, kind, 3)])
    assert hints.there() == {}
    assert reached(box, 1, kind) == seen(1, 3)
    assert len(hints.there()) == 1
    assert reached(box, 0, kind) == seen(0, 2)
    assert reached(box, 1, kind) == seen(1, 3)
    left = hints.there()
    assert len(left) == 2
    assert left == {index: published(box, index) for index in left}


@KIND
def test_of_a_set_that_was_replaced(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """The record's word counts, and the hint has it from then on."""
    node.services.add(service(0, kind, 2))
    assert reached(box, 0, kind) == seen(0, 2)
    [(index, before)] = hints.there().items()
    node.services.apply([service(0, kind, 3)])
    assert published(box, index) != before
    assert hints.there() == {index: before}
    assert reached(box, 0, kind) == seen(0, 3)
    assert hints.there() == {index: published(box, index)}


@KIND
def test_of_a_service_that_went(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """Nothing clears it, and nobody follows it; also when another one is at that index by then."""
    node.services.add(service(0, kind, 2))
    assert reached(box, 0, kind) == seen(0, 2)
    before = hints.there()
    untouched = reached(box, 3, kind)
    frontend = str(service(0, kind, 2).frontend)
    node.services.remove(frontend)
    assert hints.there() == before
    assert reached(box, 0, kind) == untouched
    usage = node.status().services
    assert usage
    # As many as there is room for: the index comes back.
    many = [
        Service.of(f"10.97.{n >> 8}.{n & 255}:80/{'tcp' if kind == TCP else 'udp'}", "10.0.0.3:80")
        for n in range(usage.capacity - 2)
    ]
    node.services.apply(many)
    node.services.add(service(1, kind, 4))
    assert reached(box, 0, kind) == untouched
    assert reached(box, 1, kind) == seen(1, 4)
    node.services.add(service(0, kind, 5))
    assert reached(box, 0, kind) == seen(0, 5)
    node.services.apply([], prune=True)


@KIND
def test_wrong_ones(box: Box, node: Node, hints: Hints, kind: str) -> None:
    node.services.apply([service(0, kind, 2), service(1, kind, 3)])
    for word in (1, 2, 3, 1 << 31, (1 << 32) - 1):
        hints.fill(word)
        assert reached(box, 0, kind) == seen(0, 2), word
        hints.fill(word)
        assert reached(box, 1, kind) == seen(1, 3), word
    hints.fill(0)
    assert reached(box, 0, kind) == seen(0, 2)
    [(first, word)] = hints.there().items()
    assert reached(box, 1, kind) == seen(1, 3)
    [second] = hints.there().keys() - {first}
    hints.fill(second + 1, word)  # one's index with the other's word
    assert reached(box, 1, kind) == seen(1, 3)
    hints.fill(first + 1, published(box, second))
    assert reached(box, 0, kind) == seen(0, 2)
    for backend in (1, (1 << 32) - 1):  # no more than where to look first
        hints.fill(first + 1, published(box, first), backend)
        assert reached(box, 0, kind) == seen(0, 2)
    hints.fill(0)
