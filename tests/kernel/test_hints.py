# SPDX-License-Identifier: Apache-2.0
"""Where programs found services last: it makes them quicker, and may lead them nowhere else."""

from __future__ import annotations

import platform
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from hostreach import Service

from .harness import Box, kernel
from .harness.clients import TCP, UDP_CONNECTED, UDP_UNCONNECTED, V4, Seen, exchange, outcome
from .harness.rawmap import RawMap
from .harness.reader import NO_ID, ROW

if TYPE_CHECKING:
    from hostreach.node import Node

HINT = struct.Struct("=QII")  # hr_record.set as it was, the index and one, hr_record.first
LINE, WAYS = 64, 4
INDEX = (1 << 25) - 1  # of the second; above it a tag of the key
RECORD = struct.Struct("=Q20sI")
KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED, UDP_UNCONNECTED])
FRONTENDS = [f"10.96.0.{n}:80" for n in range(1, 5)]


class Hints:
    def __init__(self, map_: RawMap) -> None:
        self._map = map_

    def ways(self) -> list[tuple[int, int, int]]:
        return [*HINT.iter_unpack(self._map.elements())]

    def there(self) -> dict[int, int]:
        """By index of the service, its publishing word as it was."""
        return {(service & INDEX) - 1: word for word, service, _ in self.ways() if service}

    def lines(self) -> int:
        """The number of the last one that has one, and one."""
        return max((at // WAYS for at, way in enumerate(self.ways()) if way[1]), default=-1) + 1

    def clear(self) -> None:
        self._map.fill(bytes(LINE))

    def write(self, number: int, ways: Sequence[tuple[int, int, int]]) -> None:
        """That line."""
        self._map[number] = b"".join(HINT.pack(*way) for way in ways)

    def spoil(self, service: int, word: int, first: int = NO_ID) -> None:
        """Each that is there says this from now on, as if it were its key's own."""
        ways = [
            (word, service & INDEX | said & ~INDEX, first) if said else way
            for way in self.ways()
            for said in [way[1]]
        ]
        for at in range(0, len(ways), WAYS):
            if any(said for _, said, _ in ways[at : at + WAYS]):
                self.write(at // WAYS, ways[at : at + WAYS])


@pytest.fixture
def hints(box: Box, node: Node) -> Iterator[Hints]:
    kernel.need(node.status().cgroup != "", "an attachment")
    kernel.need(kernel.has("mmap") and kernel.has("global_data"), "mapped arrays")
    kernel.need(kernel.has("batch"), "arrays read and written whole")
    kernel.need(platform.machine() in ("x86_64", "s390x"), "loads in order")
    box.serve(*(f"10.0.0.{n}:80/{protocol}" for n in range(2, 6) for protocol in ("tcp", "udp")))
    with RawMap.pinned(box.pin / "hints") as found:
        hints = Hints(found)
        hints.clear()  # in guests the instance is of other tests, too
        yield hints


def record(box: Box, index: int) -> tuple[int, bytes, int]:
    with RawMap.pinned(box.pin / "records") as records:
        word, rest, check = RECORD.unpack(records[index])
    return word, rest, check


def published(box: Box, index: int) -> int:
    return record(box, index)[0]


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
    assert reached(box, 0, kind) == seen(0, 2)
    [(first, word)] = hints.there().items()
    assert reached(box, 1, kind) == seen(1, 3)
    [second] = hints.there().keys() - {first}
    for index in (1, 2, 3, 1 << 24, INDEX):
        for number, server in ((0, 2), (1, 3)):
            hints.spoil(index, word)
            assert reached(box, number, kind) == seen(number, server), index
    hints.spoil(second + 1, word)  # one's index with the other's word
    assert reached(box, 1, kind) == seen(1, 3)
    hints.spoil(first + 1, published(box, second))
    assert reached(box, 0, kind) == seen(0, 2)
    for backend in (0, 1, 100, INDEX):  # its own or the other's, nobody's, none
        hints.spoil(first + 1, published(box, first), backend | ROW)
        assert reached(box, 0, kind) == seen(0, 2)
    hints.clear()


@KIND
def test_two_of_one_key(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """As two processors leave them at once; one is wrong by and by, and does not stay so."""
    node.services.apply([service(0, kind, 2), service(1, kind, 3)])
    assert reached(box, 0, kind) == seen(0, 2)
    [(at, own)] = [(at, way) for at, way in enumerate(hints.ways()) if way[1]]
    other = (own[0], own[1] ^ 3, own[2])  # of its tag, and another index
    none = (0, 0, 0)
    for twins in ([none, own, own, none], [none, other, own, none], [none, own, other, none]):
        hints.write(at // WAYS, twins)
        assert reached(box, 0, kind) == seen(0, 2)
        assert reached(box, 0, kind) == seen(0, 2)
        line = hints.ways()[at // WAYS * WAYS :][:WAYS]
        assert line[0] == line[3] == none
        assert line[1] == own


def answering(hosts: list[str]) -> set[str]:
    return {exchange(V4, UDP_CONNECTED, (host, 80)).server for host in hosts}


def mask(box: Box) -> int:
    with RawMap.pinned(box.pin / "meta") as meta:
        (found,) = struct.unpack_from("=I", meta[0], 56)
    return int(found)


def test_as_many_lines_as_services_need(box: Box, node: Node, hints: Hints) -> None:
    used = node.status().services
    before = used.used if used else 0  # in guests the instance is of other tests, too
    for count, lines in ((10, 8), (200, 128), (40, 128), (10, 8)):
        hosts = [f"10.98.0.{n}" for n in range(count)]
        services = [Service.of(f"{host}:80/udp", "10.0.0.2:80") for host in hosts]
        node.services.apply(services, prune=not before)
        hints.clear()
        for _ in range(2):
            assert box.call(answering, hosts) == {"10.0.0.2:80"}
        if not before:
            assert mask(box) == lines - 1
        assert count * 3 // 4 <= len(hints.there()) <= count
        assert hints.lines() <= mask(box) + 1
    node.services.apply([], prune=True)


@KIND
def test_rows_and_others(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """Each backend is chosen, and no other, whether their ids are in a row, or were."""
    rows = set()
    for algorithm in ("random", "least-conn", "maglev"):
        for servers in ([2, 3, 4], [4, 3, 2], [2, 4], [5], [2, 5, 3]):
            backends = [f"10.0.0.{server}:80" for server in servers]
            frontend = service(0, kind, 2).frontend
            node.services.apply([Service.of(str(frontend), *backends, algorithm=algorithm)])
            if algorithm == "maglev":  # one and the same for this client
                assert reached(box, 0, kind) in [seen(0, server) for server in servers]
                continue
            met = {reached(box, 0, kind) for _ in range(40)}
            assert met == {seen(0, server) for server in servers}
            [index] = hints.there()
            rows.add(bool(record(box, index)[2] & ROW))
    assert rows == {True, False}


@KIND
def test_order_makes_no_row_another(box: Box, node: Node, hints: Hints, kind: str) -> None:
    for servers in ([2, 3, 4, 5], [5, 3, 2, 4]):
        backends = [f"10.0.0.{server}:80" for server in servers]
        node.services.apply([Service.of(str(service(0, kind, 2).frontend), *backends)])
        assert reached(box, 0, kind) in [seen(0, server) for server in servers]
        [index] = hints.there()
        assert record(box, index)[2] & ROW


@KIND
def test_not_the_first_of_its_set(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """What a writer stores between one set and the next: the slots count."""
    node.services.apply([service(0, kind, 2), service(1, kind, 3)])
    assert reached(box, 0, kind) == seen(0, 2)
    assert reached(box, 1, kind) == seen(1, 3)
    for index in hints.there():
        word, rest, first = record(box, index)
        assert first & ROW
        with RawMap.pinned(box.pin / "records") as records:
            records[index] = RECORD.pack(word, rest, NO_ID)
    for _ in range(2):
        assert reached(box, 0, kind) == seen(0, 2)
        assert reached(box, 1, kind) == seen(1, 3)
