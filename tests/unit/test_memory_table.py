# SPDX-License-Identifier: Apache-2.0
"""The fake passes what the kernel's table passes."""

from __future__ import annotations

import pytest
from contract.table_contract import BACKENDS, SERVICES, SLOTS, TableContract

from hostreach.table import Table
from hostreach.testing import MemoryTable


class TestMemoryTable(TableContract):
    @pytest.fixture
    def table(self) -> Table:
        return MemoryTable(max_services=SERVICES, max_backends=BACKENDS, max_slots=SLOTS)
