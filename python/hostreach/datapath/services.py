# SPDX-License-Identifier: Apache-2.0
"""The services in the tables, as models and as plain values, and the cgroups that are exempt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from hostreach import _core, collector
from hostreach.cgroup import find_root
from hostreach.errors import InvalidInput, NotFound, Refused
from hostreach.options import Capacities
from hostreach.plain import PlainFrontend, PlainService, model_of, plain_frontend, plain_service
from hostreach.syntax import NODE, format_frontend
from hostreach.table import Row

from .kernel import NO_CGROUPS, cgroup_lost, cgroup_of, mounted_root, programs_know
from .lock import LockedTable

if TYPE_CHECKING:
    from hostreach.explain import Lost
    from hostreach.models import Frontend, Service

ADDRESSES_AGE = 1.0
"""Seconds for which the node's addresses are believed while services change."""

# Below, `list` is a method.
Numbers: TypeAlias = list[int]
Paths: TypeAlias = list[str]
Rows: TypeAlias = list[Row]
Services: TypeAlias = "list[Service]"
PlainServices: TypeAlias = list[PlainService]
LostCgroups: TypeAlias = "list[tuple[str, str, Lost]]"
Changes: TypeAlias = list[tuple[int, PlainService | None]]


class ServiceTable(LockedTable):
    """A `hostreach.table.Table`, a `PlainTable` and a `hostreach.exempt.ExemptTable`.

    Reading tables that were never made finds nothing; the first write makes them.
    """

    def __init__(self, pin: str, capacities: Capacities, *, at_least: bool = False) -> None:
        super().__init__(pin, capacities, at_least=at_least)
        self.addresses_read = float("-inf")
        self._cgroups_known: bool | None = None

    def plain(self, service: Service) -> PlainService:
        """See `hostreach.table.PlainTable.plain`."""
        if service.from_cgroup is not None and not self._knows_cgroups():
            raise Refused(f"{NO_CGROUPS}; leave out from_cgroup", object=str(service.frontend))
        return plain_service(service, cgroup_of)

    def _knows_cgroups(self) -> bool:
        if self._cgroups_known is None:
            self._cgroups_known = programs_know("cgroup_id")
        return self._cgroups_known

    def plain_get(self, frontend: PlainFrontend) -> PlainService | None:
        """See `hostreach.table.PlainTable.plain_get`."""
        try:
            with self.locked(exclusive=False):
                return self._core.get(frontend)
        except NotFound:
            return None

    def plain_owner(self, frontend: PlainFrontend) -> str | None:
        """See `hostreach.table.PlainTable.plain_owner`."""
        found = self.plain_get(frontend)
        return found[4] if found else None

    def plain_list(self, owner: str | None = None) -> PlainServices:
        """See `hostreach.table.PlainTable.plain_list`."""
        try:
            with collector.paused(), self.locked(exclusive=False):
                return self._core.list(owner)
        except NotFound:
            return []

    def lost_cgroups(self) -> LostCgroups:
        """See `hostreach.node.Node.lost_cgroups`."""
        scoped = ((s[:3], s[9]) for s in self.plain_list() if s[9])
        found = ((key, known[0], cgroup_lost(known)) for key, known in scoped)
        return [(format_frontend(*key), path, lost) for key, path, lost in found if lost]

    def lost_cgroup(self, frontend: PlainFrontend) -> Lost | None:
        """The same of the cgroup of one service."""
        found = self.plain_get(frontend)
        return cgroup_lost(found[9]) if found and found[9] else None

    def plain_differing(self, services: Sequence[PlainService]) -> Numbers:
        """See `hostreach.table.PlainTable.plain_differing`."""
        try:
            with self.locked(exclusive=False):
                return self._core.differing([*services])
        except NotFound:
            return [*range(len(services))]

    def plain_changes(self, services: Sequence[PlainService]) -> Changes:
        """See `hostreach.table.PlainTable.plain_changes`."""
        try:
            with self.locked(exclusive=False):
                differing = self._core.differing([*services])
                return [(i, self._core.get(services[i][:3])) for i in differing]
        except NotFound:
            return [(i, None) for i in range(len(services))]

    def plain_write(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """See `hostreach.table.PlainTable.plain_write`."""
        with self.exclusive():
            self._refresh_addresses(put)
            self._core.write([*put], [*remove])
            self.wrote = True

    def plain_check_room(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """See `hostreach.table.PlainTable.plain_check_room`."""
        try:
            with self.locked(exclusive=False):
                self._core.check_room([*put], [*remove])
        except NotFound:
            self._core.check_room_anew(*self._sizes, [*put])

    def _refresh_addresses(self, put: Sequence[PlainService]) -> None:
        """Of this node, which may have changed; for a stream of changes now and then will do."""
        due = time.monotonic() - self.addresses_read > ADDRESSES_AGE
        if put and (due or any(service[0] == NODE for service in put)):
            self._core.refresh_node_addresses()
            self.addresses_read = time.monotonic()

    def rows(self, owner: str | None = None) -> Rows:
        """See `hostreach.table.PlainTable.rows`."""
        try:
            with self.locked(exclusive=False):
                return [Row(*row) for row in self._core.rows(owner)]
        except NotFound:
            return []

    def shares(self, frontend: Frontend) -> Numbers:
        """See `hostreach.table.Table.shares`."""
        try:
            with self.locked(exclusive=False):
                return self._core.shares(plain_frontend(frontend))
        except NotFound:
            return []

    def active(self, frontend: Frontend) -> Numbers:
        """See `hostreach.table.Table.active`."""
        try:
            with self.locked(exclusive=False):
                return self._core.active(plain_frontend(frontend))
        except NotFound:
            return []

    def get(self, frontend: Frontend) -> Service | None:
        """See `hostreach.table.Table.get`."""
        found = self.plain_get(plain_frontend(frontend))
        return model_of(found) if found else None

    def differing(self, services: Sequence[Service]) -> Services:
        """See `hostreach.table.Table.differing`; raises as `plain` does."""
        return [services[i] for i in self.plain_differing([*map(self.plain, services)])]

    def write(self, put: Sequence[Service], remove: Sequence[Frontend] = ()) -> None:
        """See `hostreach.table.Table.write`; raises as `plain` does."""
        self.plain_write([*map(self.plain, put)], [*map(plain_frontend, remove)])

    def exempt(self, cgroup: str) -> bool:
        """Leave this cgroup's tasks alone; False if that was so before.

        Raises `InvalidInput`, and `Refused` where programs do not know a task's cgroup.
        """
        root = find_root()
        cgroup_id, level = _core.cgroup(cgroup, root)
        if not programs_know("cgroup_id"):
            raise Refused(f"cannot be exempt: {NO_CGROUPS}", object=cgroup)
        with self.exclusive():
            for other in self._core.exempted():  # pods come and go: theirs must not pile up
                if _core.cgroup_path(other, root) is None:
                    self._core.unexempt(other)
            return self._note(self._core.exempt(cgroup_id, level))

    def unexempt(self, cgroup: str) -> bool:
        """False if it was not exempt, or is gone."""
        try:
            cgroup_id, _ = _core.cgroup(cgroup, find_root())
        except InvalidInput:
            return False
        try:
            with self.locked(exclusive=True):
                return self._note(self._core.unexempt(cgroup_id))
        except NotFound:
            return False

    def _note(self, changed: bool) -> bool:
        self.wrote |= changed
        return changed

    def exempted(self) -> Paths:
        """Paths of the cgroups that are exempt, sorted; those that are gone are left out."""
        try:
            with self.locked(exclusive=False):
                ids = self._core.exempted()
        except NotFound:
            return []
        root = mounted_root()
        paths = (_core.cgroup_path(cgroup_id, root) for cgroup_id in ids)
        return sorted(path for path in paths if path is not None)

    def list(self, owner: str | None = None) -> list[Service]:
        """See `hostreach.table.Table.list`."""
        return [*map(model_of, self.plain_list(owner))]
