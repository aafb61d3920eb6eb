# SPDX-License-Identifier: Apache-2.0
"""The fake passes what the kernel's table passes."""

from __future__ import annotations

import pytest
from contract.examples import BACKENDS, SERVICES, SLOTS
from contract.exempt_contract import ExemptContract
from contract.table_contract import TableContract

from hostreach.errors import InvalidInput, TableFull
from hostreach.exempt import ExemptTable
from hostreach.models import Frontend, Service
from hostreach.services import Services
from hostreach.table import Table
from hostreach.testing import MemoryTable

VIP = "10.96.0.1:1/tcp"


class TestMemoryTable(TableContract):
    @pytest.fixture
    def table(self) -> Table:
        return MemoryTable(max_services=SERVICES, max_backends=BACKENDS, max_slots=SLOTS)

    @pytest.fixture
    def cgroup(self) -> str:
        return "/sys/fs/cgroup/a"


class TestMemoryExemptions(ExemptContract):
    @pytest.fixture
    def table(self) -> ExemptTable:
        return MemoryTable()

    @pytest.fixture
    def cgroups(self) -> tuple[str, str]:
        return "/sys/fs/cgroup/a", "/sys/fs/cgroup/b"


def test_slots_that_an_algorithm_takes() -> None:
    services = Services(MemoryTable(max_slots=101))
    services.add(Service.of(VIP, "10.0.0.2:1", algorithm="maglev"))
    with pytest.raises(TableFull, match="102 slots, room for 101"):
        services.add(Service.of("10.96.0.2:1/tcp", "10.0.0.2:1"))
    with pytest.raises(TableFull, match="251 slots, room for 101"):
        services.add_backend(VIP, "10.0.0.3:1")
    services.add_backend(VIP, "10.0.0.3:1,state=draining")
    services.set(Service.of(VIP, "10.0.0.2:1", "10.0.0.3:1", algorithm="least-conn"))
    services.add(Service.of("10.96.0.2:1/tcp", "10.0.0.2:1"))


class BusyTable(MemoryTable):
    """Has another writer between two calls."""

    def __init__(self) -> None:
        super().__init__()
        self.interruptions: list[Service] = []

    def shares(self, frontend: Frontend) -> list[int]:
        shares = super().shares(frontend)
        if self.interruptions:
            self.write([self.interruptions.pop()])
        return shares


def test_inspection_is_of_one_moment() -> None:
    table = BusyTable()
    services = Services(table)
    services.add(Service.of(VIP, "10.0.0.2:1"))
    after = Service.of(VIP, "10.0.0.2:1", "10.0.0.3:1")
    table.interruptions = [after]
    assert services.inspect(VIP) == (after, [1, 1], [0, 0])


def test_no_owner_is_not_everybody() -> None:
    """To prune nobody's services would be to remove all."""
    services = Services(MemoryTable())
    services.add(Service.of("10.96.0.1:80/tcp", owner="web"))
    for owner in ("", "a b"):
        with pytest.raises(InvalidInput):
            services.apply([], owner=owner, prune=True)
    with pytest.raises(InvalidInput):
        services.apply([], owner=None, prune=True)  # type: ignore[arg-type]
    assert len(services) == 1
