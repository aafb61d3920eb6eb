# SPDX-License-Identifier: Apache-2.0
"""A table in memory that behaves as the kernel's does, for tests of what stands on tables."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from .errors import TableFull
from .plain import PlainFrontend, PlainService, frontend_model, model_of, plain_service
from .slots import service_slots
from .table import Row

if TYPE_CHECKING:
    from .models import Frontend, Service

Plain: TypeAlias = list[PlainService]  # in the class, `list` is a method

__all__ = ["MemoryTable"]


class MemoryTable:
    """A `hostreach.table.Table` without a kernel. Passes the same tests as the real one.

    It is a `hostreach.exempt.ExemptTable` too, for which every path is a cgroup.

    Attributes:
        connections: what `active` tells, by frontend and backend address; nothing else sets it.
    """

    def __init__(
        self, *, max_services: int = 65_536, max_backends: int = 262_144, max_slots: int = 1_048_576
    ) -> None:
        self.max_services = max_services
        self.max_backends = max_backends
        self.max_slots = max_slots
        self.connections: Counter[tuple[Frontend, str]] = Counter()
        self._services: dict[Frontend, Service] = {}
        self._exempt: set[str] = set()
        self._lock = threading.RLock()

    @contextmanager
    def exclusive(self, *, make: bool = True) -> Iterator[None]:  # noqa: ARG002 - always there
        """As `PlainTable.exclusive`, among the threads of this process."""
        with self._lock:
            yield

    def get(self, frontend: Frontend) -> Service | None:
        """As `Table.get`."""
        return self._services.get(frontend)

    def rows(self, owner: str | None = None) -> list[Row]:
        """As `Table.rows`."""
        return [
            Row(str(s.frontend), s.name, s.owner, s.algorithm, len(s.backends))
            for s in self.list(owner)
        ]

    def shares(self, frontend: Frontend) -> list[int]:
        """As `Table.shares`."""
        service = self.get(frontend)
        return service_slots(service.backends, service.algorithm) if service else []

    def active(self, frontend: Frontend) -> list[int]:
        """As `Table.active`."""
        service = self.get(frontend)
        return [self.connections[frontend, b.address] for b in service.backends] if service else []

    def differing(self, services: Sequence[Service]) -> list[Service]:
        """As `Table.differing`."""
        return [service for service in services if self.get(service.frontend) != service]

    def write(self, put: Sequence[Service], remove: Sequence[Frontend] = ()) -> None:
        """As `Table.write`."""
        with self._lock:
            self._services = self._after(put, remove)

    def _after(self, put: Sequence[Service], remove: Sequence[Frontend]) -> dict[Frontend, Service]:
        after = {**self._services, **{service.frontend: service for service in put}}
        for frontend in remove:
            after.pop(frontend, None)
        backends = sum(len(service.backends) for service in after.values())
        slots = sum(
            sum(service_slots(service.backends, service.algorithm)) for service in after.values()
        )
        for what, needed, room in (
            ("services", len(after), self.max_services),
            ("backends", backends, self.max_backends),
            ("slots", slots, self.max_slots),
        ):
            if needed > room:
                raise TableFull(
                    f"the table is full: {needed} {what}, room for {room}; nothing changed"
                )
        return after

    def plain(self, service: Service) -> PlainService:
        """As `PlainTable.plain`; every path is a cgroup."""
        return plain_service(service, lambda _: (1, 1))

    def plain_get(self, frontend: PlainFrontend) -> PlainService | None:
        """As `PlainTable.plain_get`."""
        service = self._services.get(frontend_model(frontend))
        return self.plain(service) if service else None

    def plain_owner(self, frontend: PlainFrontend) -> str | None:
        """As `PlainTable.plain_owner`."""
        found = self.plain_get(frontend)
        return found[4] if found else None

    def plain_list(self, owner: str | None = None) -> Plain:
        """As `PlainTable.plain_list`."""
        return [self.plain(service) for service in self.list(owner)]

    def plain_differing(self, services: Sequence[PlainService]) -> list[int]:
        """As `PlainTable.plain_differing`."""
        return [i for i, _ in self.plain_changes(services)]

    def plain_changes(
        self, services: Sequence[PlainService]
    ) -> list[tuple[int, PlainService | None]]:
        """As `PlainTable.plain_changes`."""
        held = (self.plain_get(service[:3]) for service in services)
        return [(i, old) for i, old in enumerate(held) if old != services[i]]

    def plain_write(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """As `PlainTable.plain_write`."""
        self.write([*map(model_of, put)], [*map(frontend_model, remove)])

    def plain_check_room(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """As `PlainTable.plain_check_room`."""
        self._after([*map(model_of, put)], [*map(frontend_model, remove)])

    def exempt(self, cgroup: str) -> bool:
        """As `ExemptTable.exempt`."""
        with self._lock:
            new = cgroup not in self._exempt
            self._exempt.add(cgroup)
            return new

    def unexempt(self, cgroup: str) -> bool:
        """As `ExemptTable.unexempt`."""
        with self._lock:
            there = cgroup in self._exempt
            self._exempt.discard(cgroup)
            return there

    def exempted(self) -> list[str]:
        """As `ExemptTable.exempted`."""
        return sorted(self._exempt)

    def list(self, owner: str | None = None) -> list[Service]:
        """As `Table.list`."""
        found = (s for s in self._services.values() if owner is None or s.owner == owner)
        return sorted(found, key=lambda service: service.sort_key)
