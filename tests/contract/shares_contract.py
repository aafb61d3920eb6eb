# SPDX-License-Identifier: Apache-2.0
"""What shares of its connections a service's backends have, over any `hostreach.table.Table`.

For subclasses with the fixtures ``table`` and ``services`` of `contract.table_contract`.
"""

from __future__ import annotations

import pytest

from hostreach.errors import NotFound
from hostreach.models import Service
from hostreach.services import Services
from hostreach.table import Table

from .examples import DNS, WEB6


class SharesContract:
    @pytest.mark.parametrize(
        ("backends", "expected"),
        [
            pytest.param([], [], id="none"),
            pytest.param(["10.0.0.1:1,weight=2", "10.0.0.2:1,weight=6"], [1, 3], id="weights"),
            pytest.param(["10.0.0.1:1,state=draining", "10.0.0.2:1"], [0, 1], id="draining"),
            pytest.param(["10.0.0.1:1,state=down", "10.0.0.2:1"], [0, 1], id="down"),
            pytest.param(
                ["10.0.0.1:1,state=draining,weight=2", "10.0.0.2:1,state=draining,weight=4"],
                [1, 2],
                id="all draining",
            ),
            pytest.param(
                ["10.0.0.1:1,weight=0", "10.0.0.2:1,state=draining"], [0, 1], id="no weight"
            ),
            pytest.param(["10.0.0.1:1,state=down", "[fd00::1]:1,weight=0"], [0, 0], id="nothing"),
            pytest.param(
                ["[fd00::1]:1", "10.0.0.1:1,weight=4", "[fd00::2]:1", "10.0.0.2:1,weight=2"],
                [1, 2, 1, 1],
                id="two families",
            ),
            pytest.param(
                ["[fd00::1]:1,state=draining", "10.0.0.1:1"], [1, 1], id="one draining of each"
            ),
        ],
    )
    @pytest.mark.parametrize("algorithm", ["random", "least-conn"])
    def test_shares(
        self, services: Services, backends: list[str], expected: list[int], algorithm: str
    ) -> None:
        service = Service.of("node:1/tcp", *backends, algorithm=algorithm)
        services.add(service)
        assert services.shares("node:1/tcp") == expected
        assert services.active("node:1/tcp") == [0] * len(expected)
        assert services.inspect("node:1/tcp") == (service, expected, [0] * len(expected))

    def test_shares_follow(self, services: Services, table: Table) -> None:
        assert table.shares(DNS.frontend) == table.active(DNS.frontend) == []
        with pytest.raises(NotFound, match="no such service"):
            services.shares("10.96.0.10:53/udp")
        services.apply([DNS, WEB6])
        assert table.shares(DNS.frontend) == [1, 3]
        services.set_backend(DNS.frontend, "10.0.0.3:53,weight=3,state=down")
        assert table.shares(DNS.frontend) == [1, 0]
        services.remove(DNS.frontend)
        assert table.shares(DNS.frontend) == table.active(DNS.frontend) == []

    def test_maglev_shares(self, services: Services) -> None:
        services.add(
            Service.of(
                "node:1/tcp",
                *(f"10.0.0.{i}:1" for i in range(1, 7)),
                "10.0.0.7:1,state=down",
                "[fd00::1]:1,weight=3",
                "[fd00::2]:1,weight=1",
                algorithm="maglev",
            )
        )
        shares = services.shares("node:1/tcp")
        assert shares[6] == 0
        assert sum(shares[:6]) == 1021
        assert max(shares[:6]) - min(shares[:6]) <= 1
        assert sum(shares[7:]) == 251
        assert shares[7] == pytest.approx(3 * shares[8], abs=4)

    def test_maglev_starves_nobody(self, services: Services) -> None:
        weights = ("10.0.0.1:1,weight=65535", "10.0.0.2:1", "10.0.0.3:1,weight=40")
        services.add(Service.of("10.96.0.1:1/tcp", *weights, algorithm="maglev"))
        shares = services.shares("10.96.0.1:1/tcp")
        assert sum(shares) == 509
        assert shares[1:] == [1, 1]
