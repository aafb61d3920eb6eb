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

HINT = struct.Struct("=QII")  # hr_record.set as it was, the index and one, hr_record.check
LINE = 64
WORD = (1 << 25) - 1  # an index or an id; above it a tag of the key, or a check of the set
RECORD = struct.Struct("=Q20sI")
KIND = pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED, UDP_UNCONNECTED])
FRONTENDS = [f"10.96.0.{n}:80" for n in range(1, 5)]


class Hints:
    def __init__(self, map_: RawMap) -> None:
        self._map = map_

    def there(self) -> dict[int, int]:
        """By index of the service, its publishing word as it was."""
        all_ = HINT.iter_unpack(self._map.elements())
        return {(service & WORD) - 1: word for word, service, _ in all_ if service}

    def lines(self) -> int:
        """How many of them have one."""
        lines = self._map.elements()
        return sum(any(lines[at : at + LINE]) for at in range(0, len(lines), LINE))

    def clear(self) -> None:
        self._map.fill(bytes(LINE))

    def spoil(self, service: int, word: int, backend: int = 0) -> None:
        """Each that is there says this from now on, as if it were its key's own and whole."""
        lines = self._map.elements()
        for at in range(0, len(lines), LINE):
            line = bytearray(lines[at : at + LINE])
            for way, (_, said, _) in enumerate(HINT.iter_unpack(bytes(line))):
                if said:
                    tagged = service & WORD | said & ~WORD
                    HINT.pack_into(line, way * HINT.size, word, tagged, row(word, backend))
            if any(line):
                self._map[at // LINE] = bytes(line)


def row(word: int, backend: int) -> int:
    """HR_ROW."""
    check = (word * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 32
    return backend & WORD | ~check & 0xFFFFFFFF & ~WORD


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
    for index in (1, 2, 3, 1 << 24, WORD):
        for number, server in ((0, 2), (1, 3)):
            hints.spoil(index, word)
            assert reached(box, number, kind) == seen(number, server), index
    hints.spoil(second + 1, word)  # one's index with the other's word
    assert reached(box, 1, kind) == seen(1, 3)
    hints.spoil(first + 1, published(box, second))
    assert reached(box, 0, kind) == seen(0, 2)
    for backend in (1, 100, WORD):  # another service's, nobody's, none
        hints.spoil(first + 1, published(box, first), backend)
        assert reached(box, 0, kind) == seen(0, 2)
    hints.clear()


def answering(hosts: list[str]) -> set[str]:
    return {exchange(V4, UDP_CONNECTED, (host, 80)).server for host in hosts}


def test_as_many_lines_as_services_need(box: Box, node: Node, hints: Hints) -> None:
    for count in (10, 200):
        hosts = [f"10.98.0.{n}" for n in range(count)]
        node.services.apply([Service.of(f"{host}:80/udp", "10.0.0.2:80") for host in hosts])
        for _ in range(2):
            assert box.call(answering, hosts) == {"10.0.0.2:80"}
        assert count * 3 // 4 <= len(hints.there()) <= count
        assert hints.lines() <= count
    node.services.apply([], prune=True)


@KIND
def test_rows_and_others(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """Each backend is chosen, and no other, whether their ids are in a row, or were."""
    protocol = "tcp" if kind == TCP else "udp"
    rows = set()
    for servers in ([2, 3, 4], [2, 4], [4, 3, 2], [5], [2, 5, 3]):
        backends = [f"10.0.0.{server}:80" for server in servers]
        node.services.apply([Service.of(f"{FRONTENDS[0]}/{protocol}", *backends)])
        met = {reached(box, 0, kind) for _ in range(40)}
        assert met == {seen(0, server) for server in servers}
        [index] = hints.there()
        word, _, check = record(box, index)
        rows.add(check & ~WORD == row(word, 0))
    assert rows == {True, False}


@KIND
def test_a_row_of_another_set(box: Box, node: Node, hints: Hints, kind: str) -> None:
    """What a writer that was killed may leave there: the slots count."""
    node.services.apply([service(0, kind, 2), service(1, kind, 3)])
    assert reached(box, 0, kind) == seen(0, 2)
    assert reached(box, 1, kind) == seen(1, 3)
    for index in hints.there():
        word, rest, check = record(box, index)
        assert check & ~WORD == row(word, 0)
        with RawMap.pinned(box.pin / "records") as records:
            records[index] = RECORD.pack(word, rest, check ^ 1 << 31)
    for _ in range(2):
        assert reached(box, 0, kind) == seen(0, 2)
        assert reached(box, 1, kind) == seen(1, 3)
