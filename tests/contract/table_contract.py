# SPDX-License-Identifier: Apache-2.0
"""Services over any `hostreach.table.Table`.

A subclass whose name begins with Test gives the fixture ``table``: fresh and empty, with room for
exactly SERVICES services and BACKENDS backends, and for at least SLOTS slots. The fixture
``cgroup`` is the path of a cgroup v2 directory.
"""

from __future__ import annotations

from typing import Any

import pytest

from hostreach.cgroup import find_root
from hostreach.errors import (
    AlreadyExists,
    HostreachError,
    InvalidInput,
    NotFound,
    OwnerConflict,
    TableFull,
)
from hostreach.models import Frontend, Service
from hostreach.plain import plain_frontend, plain_service
from hostreach.services import Services
from hostreach.table import PlainTable, Row, Table

from .examples import BACKENDS, DNS, DNS_TCP, EMPTY, SERVICES, WEB6, many
from .shares_contract import SharesContract


class TableContract(SharesContract):
    @pytest.fixture
    def table(self) -> Table:
        raise NotImplementedError

    @pytest.fixture
    def cgroup(self) -> str:
        return find_root()

    @pytest.fixture
    def services(self, table: Table) -> Services:
        return Services(table)

    def test_empty(self, services: Services, table: Table) -> None:
        assert services.list() == []
        assert services.rows() == []
        assert len(services) == 0
        assert table.get(DNS.frontend) is None
        with pytest.raises(NotFound, match=r"^10\.96\.0\.10:53/udp: no such service$"):
            services.get("10.96.0.10:53/udp")

    def test_add_and_read_back(self, services: Services) -> None:
        change = services.add(DNS)
        assert change == ("add", DNS.frontend, None, DNS)
        services.add(WEB6)
        services.add(DNS_TCP)
        services.add(EMPTY)
        assert services.get("10.96.0.10:53/udp") == DNS
        assert services.get(WEB6.frontend) == WEB6
        assert services.list() == [EMPTY, DNS_TCP, DNS, WEB6]
        assert list(services) == services.list()
        assert services.list("web") == [WEB6]
        assert len(services) == 4
        assert "10.96.0.10:53/udp" in services
        assert WEB6.frontend in services
        assert WEB6 in services
        assert WEB6.model_copy(update={"name": "another"}) not in services
        assert "10.96.0.10:54/udp" not in services
        assert services.rows("manual") == [
            Row("10.96.0.9:80/tcp", None, "manual", "random", 0),
            Row("10.96.0.10:53/tcp", None, "manual", "random", 1),
            Row("10.96.0.10:53/udp", "kube/dns:dns", "manual", "random", 2),
        ]

    def test_sorted_by_number_not_by_text(self, services: Services) -> None:
        order = [
            "2.0.0.1:80/tcp",
            "10.0.0.1:9/tcp",
            "10.0.0.1:80/tcp",
            "10.0.0.1:80/udp",
            "10.0.0.1:1000/tcp",
            "[1::9]:1/tcp",
            "[1::10]:1/tcp",
            "node:1/tcp",
        ]
        assert len(order) <= SERVICES
        for frontend in sorted(order):
            services.add(Service.of(frontend))
        assert [str(service.frontend) for service in services] == order
        assert [row.frontend for row in services.rows()] == order

    def test_longest_values(self, services: Services) -> None:
        service = Service.of("10.96.0.1:65535/tcp", name="ü" * 127 + "x", owner="o" * 63)
        services.add(service)
        assert services.list() == [service]

    def test_all_options(self, services: Services, cgroup: str) -> None:
        services.add(DNS)
        for changes in (
            {"algorithm": "maglev"},
            {"algorithm": "least-conn", "affinity": "1ms"},
            {"affinity": "49d"},
            {"host_only": True, "on_removal": "keep"},
            {"from_cgroup": cgroup, "on_removal": "reset"},
            {"algorithm": "maglev", "affinity": "3h", "host_only": True, "from_cgroup": cgroup},
            {},
        ):
            service = Service.of(str(DNS.frontend), "10.0.0.2:53", **changes)
            change = services.set(service)
            assert change is not None
            assert change.after == service
            assert services.set(service) is None
            assert services.get(DNS.frontend) == service
            assert services.list() == [service]

    def test_backend_states(self, services: Services) -> None:
        services.add(EMPTY)
        vip = str(EMPTY.frontend)
        for backend in ("10.0.0.1:80,state=draining", "10.0.0.2:80,weight=0,state=down"):
            services.add_backend(vip, backend)
        for backend in (
            "10.0.0.1:80,state=down",
            "10.0.0.1:80",
            "10.0.0.2:80,state=draining",
            "10.0.0.2:80,weight=7,state=draining",
        ):
            assert services.set_backend(vip, backend) is not None
            assert services.set_backend(vip, backend) is None
            assert backend in [str(b) for b in services.get(vip).backends]
        services.remove_backend(vip, "10.0.0.1:80")
        assert services.get(vip) == Service.of(vip, "10.0.0.2:80,weight=7,state=draining")

    def test_node_frontend(self, services: Services) -> None:
        port = Service.of("node:30080/tcp", "10.0.0.1:80", "[fd00::1]:80", name="port")
        udp = Service.of("node:30080/udp")
        services.apply([udp, port, DNS, WEB6])
        assert services.list() == [DNS, WEB6, port, udp]
        assert services.get("node:30080/tcp") == port
        assert [row.frontend for row in services.rows()][2:] == ["node:30080/tcp", "node:30080/udp"]
        services.add_backend("node:30080/tcp", "[fd00::2]:80")
        assert len(services.get("node:30080/tcp").backends) == 3
        assert services.inspect("node:30080/udp") == (udp, [], [])
        services.remove("node:30080/tcp")
        assert services.list() == [DNS, WEB6, udp]

    def test_add_twice(self, services: Services) -> None:
        services.add(DNS)
        other = Service.of("10.96.0.10:53/udp")
        with pytest.raises(AlreadyExists, match="exists already; use set"):
            services.add(other)
        assert services.add(other, if_missing=True) is None
        assert services.list() == [DNS]

    def test_set(self, services: Services) -> None:
        assert services.set(DNS) == ("add", DNS.frontend, None, DNS)
        assert services.set(DNS) is None
        other = Service.of("10.96.0.10:53/udp", "10.0.0.9:53")
        assert services.set(other) == ("set", DNS.frontend, DNS, other)
        assert services.list() == [other]

    def test_remove(self, services: Services) -> None:
        services.add(DNS)
        assert services.remove("10.96.0.10:53/tcp", if_exists=True) is None
        assert services.remove("10.96.0.10:53/udp") == ("remove", DNS.frontend, DNS, None)
        assert services.list() == []
        with pytest.raises(NotFound, match="no such service"):
            services.remove("10.96.0.10:53/udp")
        services.add(DNS)
        assert services.list() == [DNS]

    def test_backends(self, services: Services) -> None:
        services.add(EMPTY)
        vip = str(EMPTY.frontend)
        services.add_backend(vip, "10.0.0.1:80")
        services.add_backend(vip, "10.0.0.2:80,weight=2")
        services.set_backend(vip, "10.0.0.1:80,weight=5")
        services.set_backend(vip, "10.0.0.3:80")
        assert [str(b) for b in services.get(vip).backends] == [
            "10.0.0.1:80,weight=5",
            "10.0.0.2:80,weight=2",
            "10.0.0.3:80",
        ]
        assert services.set_backend(vip, "10.0.0.3:80") is None
        assert services.add_backend(vip, "10.0.0.3:80,weight=9", if_missing=True) is None
        change = services.remove_backend(vip, "10.0.0.2:80")
        assert change is not None
        assert change.action == "set"
        assert services.remove_backend(vip, "10.0.0.2:80", if_exists=True) is None
        with pytest.raises(InvalidInput):
            services.remove_backend(vip, "10.0.0.1:80,weight=3")
        after = services.get(vip)
        assert [str(b) for b in after.backends] == ["10.0.0.1:80,weight=5", "10.0.0.3:80"]
        with pytest.raises(AlreadyExists, match=r"backend 10\.0\.0\.3:80 exists already"):
            services.add_backend(vip, "10.0.0.3:80")
        with pytest.raises(NotFound, match=r"no such backend: 10\.0\.0\.2:80"):
            services.remove_backend(vip, "10.0.0.2:80")
        with pytest.raises(
            InvalidInput, match=r"is IPv6, but frontend 10\.96\.0\.9:80/tcp is IPv4"
        ):
            services.add_backend(vip, "[fd00::1]:80")
        with pytest.raises(NotFound, match="no such service"):
            services.add_backend("10.96.0.99:80/tcp", "10.0.0.1:80")
        with pytest.raises(NotFound, match="no such service"):
            services.remove_backend("10.96.0.99:80/tcp", "10.0.0.1:80", if_exists=True)
        assert services.list() == [after]

    def test_owners(self, services: Services) -> None:
        services.add(WEB6)
        vip = str(WEB6.frontend)
        mine = Service.of(vip)
        for refused in (
            lambda: services.set(mine),
            lambda: services.remove(vip),
            lambda: services.add_backend(vip, "[fd00::2]:1"),
            lambda: services.set_backend(vip, "[fd00::2]:1"),
            lambda: services.remove_backend(vip, "[fd00::1]:8080"),
            lambda: services.apply([DNS, mine]),
        ):
            with pytest.raises(OwnerConflict, match="belongs to owner 'web'; pass --owner web"):
                refused()
        assert services.list() == [WEB6]
        services.remove_backend(vip, "[fd00::1]:8080", owner="web")
        services.remove(vip, owner="web")
        assert services.list() == []

    def test_apply(self, services: Services) -> None:
        changed = Service.of("10.96.0.10:53/udp", "10.0.0.7:53")
        services.apply([DNS, EMPTY])
        changes = services.apply([WEB6, changed, EMPTY])
        assert changes == [
            ("set", DNS.frontend, DNS, changed),
            ("add", WEB6.frontend, None, WEB6),
        ]
        assert services.apply([changed, WEB6]) == []
        assert services.list() == [EMPTY, changed, WEB6]

    def test_apply_prune(self, services: Services) -> None:
        services.apply([DNS, EMPTY, WEB6])
        changes = services.apply([DNS], prune=True)
        assert changes == [("remove", EMPTY.frontend, EMPTY, None)]
        assert services.list() == [DNS, WEB6]
        assert [c.action for c in services.apply([], owner="web", prune=True)] == ["remove"]
        assert services.list() == [DNS]
        assert services.apply([], prune=True, owner="nobody") == []

    def test_apply_dry_run(self, services: Services) -> None:
        services.apply([EMPTY])
        changes = services.apply([DNS], prune=True, dry_run=True)
        assert [change.action for change in changes] == ["remove", "add"]
        assert services.list() == [EMPTY]

    def test_apply_duplicate(self, services: Services) -> None:
        with pytest.raises(InvalidInput, match="given twice"):
            services.apply([EMPTY, DNS, DNS])
        assert services.list() == []

    def test_full_of_services(self, services: Services) -> None:
        full = many(SERVICES)
        services.apply(full)
        for attempt in (
            lambda: services.add(DNS),
            lambda: services.set(DNS),
            lambda: services.apply([*many(1), DNS]),
        ):
            with pytest.raises(TableFull):
                attempt()
            assert services.list() == full
        services.remove(full[0].frontend)
        services.add(DNS)
        assert len(services) == SERVICES

    def test_full_changes_nothing_of_a_batch(self, services: Services) -> None:
        services.add(DNS)
        with pytest.raises(TableFull):
            services.apply(many(SERVICES))
        assert services.list() == [DNS]

    def test_full_of_backends(self, services: Services) -> None:
        services.add(EMPTY)
        too_many = [f"10.0.1.{i}:80" for i in range(1, BACKENDS + 2)]
        with pytest.raises(TableFull):
            services.set(Service.of(str(EMPTY.frontend), *too_many))
        assert services.list() == [EMPTY]
        services.set(Service.of(str(EMPTY.frontend), *too_many[:BACKENDS]))
        with pytest.raises(TableFull):
            services.add_backend(EMPTY.frontend, too_many[-1])
        assert len(services.get(EMPTY.frontend).backends) == BACKENDS

    def test_differing(self, services: Services, table: Table, cgroup: str) -> None:
        services.apply([DNS, EMPTY])
        renamed = Service.of("10.96.0.9:80/tcp", name="x")
        vip = str(EMPTY.frontend)
        for other in (
            Service.of(vip, algorithm="maglev"),
            Service.of(vip, affinity="1s"),
            Service.of(vip, host_only=True),
            Service.of(vip, from_cgroup=cgroup),
            Service.of(vip, on_removal="keep"),
            Service.of("node:80/tcp"),
        ):
            assert table.differing([other]) == [other]
        drained = ("10.0.0.2:53", "10.0.0.3:53,weight=3,state=draining")
        other = Service.of(str(DNS.frontend), *drained, name=DNS.name)
        assert table.differing([other]) == [other]
        owned = Service.of("10.96.0.9:80/tcp", owner="x")
        reordered = Service.of("10.96.0.10:53/udp", "10.0.0.3:53,weight=3", "10.0.0.2:53")
        assert table.differing([DNS, EMPTY]) == []
        assert table.differing([WEB6, DNS, renamed]) == [WEB6, renamed]
        assert table.differing([owned, reordered]) == [owned, reordered]

    def test_passes_over_what_is_not_there(self, services: Services, table: Table) -> None:
        services.add(DNS)
        table.write([], [Frontend.parse("10.96.0.77:1/tcp"), DNS.frontend])
        assert services.list() == []

    def test_exclusive_is_reentrant(self, services: Services, table: Table) -> None:
        with table.exclusive():
            services.add(DNS)
            with table.exclusive():
                services.add(EMPTY)
            assert services.list() == [EMPTY, DNS]

    def test_lock_is_given_back_after_an_error(self, services: Services) -> None:
        for _ in range(3):
            with pytest.raises(HostreachError):
                services.remove("10.96.0.99:80/tcp")
        services.add(DNS)

    @pytest.mark.parametrize("wrong", [None, 3, b"10.96.0.10:53/udp", [DNS.frontend]], ids=repr)
    def test_what_is_no_such_thing(self, services: Services, wrong: Any) -> None:
        """A mistake in a program is told as one, and nothing is written."""
        services.add(DNS)
        kind = type(wrong).__name__
        for call in (services.get, services.inspect, services.remove):
            with pytest.raises(TypeError, match=f"^a frontend is text or a Frontend, not {kind}$"):
                call(wrong)
        for write in (services.add, services.set):
            with pytest.raises(TypeError, match=f"^a service is a Service, not {kind}$"):
                write(wrong)
        with pytest.raises(TypeError, match=f"^a service is a Service, not {kind}$"):
            services.apply([WEB6, wrong], prune=True)
        for change in (services.add_backend, services.set_backend):
            with pytest.raises(TypeError, match=f"^a backend is text or a Backend, not {kind}$"):
                change(DNS.frontend, wrong)
        with pytest.raises(TypeError, match=f"^a backend's address is text, not {kind}$"):
            services.remove_backend(DNS.frontend, wrong)
        assert services.list() == [DNS]

    def test_in_plain_values(self, services: Services, table: Table) -> None:
        """What crosses without models is the same table."""
        plain: PlainTable = table
        services.add(WEB6)
        wanted = [plain_service(service, lambda _: (0, 0)) for service in (DNS, WEB6, EMPTY)]
        assert plain.plain_differing(wanted) == [0, 2]
        plain.plain_write(wanted, [plain_frontend(DNS_TCP.frontend)])
        assert services.list() == [EMPTY, DNS, WEB6]
        assert plain.plain_differing(wanted) == []
        assert plain.plain_owner(plain_frontend(WEB6.frontend)) == "web"
        assert plain.plain_owner(plain_frontend(DNS_TCP.frontend)) is None
        plain.plain_write([], [plain_frontend(DNS.frontend), plain_frontend(DNS_TCP.frontend)])
        assert services.list() == [EMPTY, WEB6]

    def test_in_plain_values_without_room(self, services: Services, table: Table) -> None:
        plain: PlainTable = table
        services.add(DNS)
        too_many = [plain_service(each, lambda _: (0, 0)) for each in many(SERVICES)]
        with pytest.raises(TableFull):
            plain.plain_write(too_many)
        with pytest.raises(TableFull):
            plain.plain_check_room(too_many)
        plain.plain_check_room(too_many[1:], [plain_frontend(DNS.frontend)])
        assert services.list() == [DNS]
