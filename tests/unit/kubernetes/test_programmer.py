# SPDX-License-Identifier: Apache-2.0
"""What is written, what is owed, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from hostreach.agent.programmer import Programmer
from hostreach.errors import TableBusy
from hostreach.models import Service
from hostreach.plain import PlainFrontend, PlainService, plain_frontend, plain_service
from hostreach.services import Services
from hostreach.testing import MemoryTable


class Table(MemoryTable):
    """Counts locks and writes; fails if it is told to."""

    locks = 0
    busy = False

    def __init__(self, **room: int) -> None:
        super().__init__(**room)
        self.put: list[PlainService] = []
        self.gone: list[PlainFrontend] = []

    @contextmanager
    def exclusive(self, *, make: bool = True) -> Iterator[None]:  # noqa: ARG002 - always there
        if self.busy:
            raise TableBusy("somebody else has it")
        self.locks += 1
        with super().exclusive():
            yield

    def plain_write(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        super().plain_write(put, remove)
        self.put += put
        self.gone += remove


def ours(number: int, *backends: str, owner: str = "kubernetes") -> PlainService:
    service = Service.of(f"10.96.0.{number}:80/tcp", *backends, owner=owner, name=f"ns/s{number}")
    return plain_service(service, lambda _: (0, 0))


def at(number: int) -> PlainFrontend:
    return (f"10.96.0.{number}", 80, "tcp")


def behind(programmer: Programmer) -> bool:
    return programmer.behind  # a call: type checkers would take it for constant


@pytest.fixture
def table() -> Table:
    return Table(max_services=4)


@pytest.fixture
def programmer(table: Table) -> Programmer:
    return Programmer(table, "kubernetes")


def test_only_what_differs_is_written(table: Table, programmer: Programmer) -> None:
    one, two = ours(1, "10.0.0.1:80"), ours(2)
    assert programmer.write([one, two]) == (2, 0)
    table.put.clear()
    assert programmer.write([one, ours(2, "10.0.0.2:80")]) == (1, 0)
    assert [service[0] for service in table.put] == ["10.96.0.2"]


def test_what_is_there_costs_no_lock(table: Table, programmer: Programmer) -> None:
    programmer.write([ours(1)])
    locks = table.locks
    assert programmer.write([ours(1)], [at(3)]) == (0, 0)
    assert table.locks == locks


def test_another_owners_is_left_alone_until_it_goes(
    table: Table, programmer: Programmer, caplog: pytest.LogCaptureFixture
) -> None:
    services = Services(table)
    services.add(Service.of("10.96.0.1:80/tcp", owner="manual"))
    assert programmer.write([ours(1), ours(2)]) == (1, 0)
    assert programmer.conflicts == {at(1): "manual"}
    assert behind(programmer)
    assert programmer.retry() == (0, 0)
    assert programmer.write([], [at(1)]) == (0, 0)  # nor is it removed
    assert services.get("10.96.0.1:80/tcp").owner == "manual"
    assert not behind(programmer)
    programmer.write([ours(1)])
    services.remove("10.96.0.1:80/tcp")
    assert programmer.retry() == (1, 0)
    assert not programmer.conflicts
    assert not behind(programmer)
    assert sum("left alone" in each for each in caplog.messages) == 2


def test_pruning_takes_ours_alone(table: Table, programmer: Programmer) -> None:
    programmer.write([ours(1), ours(2)])
    Services(table).add(Service.of("10.96.0.3:80/tcp"))
    wanted = {at(2)}
    assert programmer.prune(lambda frontend: frontend in wanted) == 1
    assert [str(service.frontend) for service in table.list()] == [
        "10.96.0.2:80/tcp",
        "10.96.0.3:80/tcp",
    ]


def test_what_fails_is_owed_in_its_newest_form(table: Table, programmer: Programmer) -> None:
    programmer.write([ours(1), ours(2)])
    table.busy = True
    with pytest.raises(TableBusy):
        programmer.write([ours(1, "10.0.0.1:80"), ours(3)], [at(2)])
    with pytest.raises(TableBusy):
        programmer.write([ours(1, "10.0.0.9:80")], [at(3)])
    assert behind(programmer)
    table.busy = False
    programmer.retry()
    assert not behind(programmer)
    assert [(s.frontend.address, len(s.backends)) for s in table.list()] == [("10.96.0.1", 1)]
    assert table.list()[0].backends[0].address == "10.0.0.9:80"


def test_what_fits_is_written(
    table: Table, programmer: Programmer, caplog: pytest.LogCaptureFixture
) -> None:
    services = [ours(n) for n in range(1, 8)]
    assert programmer.write(services) == (4, 0)
    assert len(programmer.owed) == 3
    assert not programmer.make_room()
    assert not programmer.make_room()
    assert caplog.messages == ["3 services do not fit into the tables: no table can be larger"]
    gone = [plain_frontend(service.frontend) for service in table.list()[:2]]
    programmer.write([], gone)
    assert programmer.retry() == (2, 0)
    assert len(programmer.owed) == 1


def test_a_table_that_grows(table: Table) -> None:
    asked = []

    def grow(services: int, backends: int) -> bool:
        asked.append((services, backends))
        table.max_services = 100
        return True

    programmer = Programmer(table, "kubernetes", grow)
    programmer.write([ours(n, f"10.0.0.{n}:80", "10.0.1.1:80") for n in range(1, 8)])
    assert programmer.make_room()
    assert asked == [(3, 6)]
    assert programmer.retry() == (3, 0)
    assert not programmer.make_room()
