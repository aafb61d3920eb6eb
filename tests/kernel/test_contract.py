# SPDX-License-Identifier: Apache-2.0
"""The kernel's table keeps the contract that the one in memory keeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from contract.examples import BACKENDS, SERVICES, SLOTS
from contract.exempt_contract import ExemptContract
from contract.table_contract import TableContract

from hostreach import Capacities
from hostreach.datapath import KernelTable
from hostreach.slots import slot_counts

from .harness import Box


@pytest.fixture
def kernel_table(box: Box) -> Iterator[KernelTable]:
    table = KernelTable(str(box.pin), Capacities(SERVICES, BACKENDS, SLOTS))
    yield table
    table.close()


class TestKernelTable(TableContract):
    @pytest.fixture
    def table(self, kernel_table: KernelTable) -> KernelTable:
        return kernel_table


class TestKernelExemptions(ExemptContract):
    @pytest.fixture
    def table(self, kernel_table: KernelTable) -> KernelTable:
        return kernel_table

    @pytest.fixture
    def cgroups(self, box: Box) -> tuple[str, str]:
        paths = [box.cgroup / name for name in ("a", "b")]
        for path in paths:
            path.mkdir()
        return str(paths[0]), str(paths[1])


@pytest.mark.parametrize(
    "weights",
    [(1,), (1, 3), (10, 20, 30), (65535, 1, 40), (65535, 65534), (7, 0, 7), (9973, 7919, 6007)],
    ids=str,
)
def test_slots_by_weight(box: Box, weights: tuple[int, ...]) -> None:
    """The writer follows the rule that `hostreach.slots` tells, to the slot."""
    from hostreach import Service

    table = KernelTable(str(box.pin), Capacities(4, 64, 8192))
    backends = [f"10.0.0.{n}:80,weight={weight}" for n, weight in enumerate(weights, 1)]
    service = Service.of("10.96.0.10:80/tcp", *backends)
    table.write([service])
    assert table.shares(service.frontend) == slot_counts(weights)
    table.close()
