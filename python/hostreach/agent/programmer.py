# SPDX-License-Identifier: Apache-2.0
"""Writes one owner's services, and nothing of anybody else's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple

from hostreach.errors import HostreachError, TableFull
from hostreach.plain import PlainFrontend, PlainService
from hostreach.syntax import format_frontend, parse_frontend
from hostreach.table import PlainTable

log = logging.getLogger("hostreach.agent")


class Written(NamedTuple):
    """How many services were added or changed, and how many removed."""

    put: int
    removed: int


def frontend_of(service: PlainService) -> PlainFrontend:
    return service[0], service[1], service[2]


class Programmer:
    """Not for two threads at once.

    Attributes:
        conflicts: frontends that are another owner's, and whose. They are theirs until they go.
        owed: services that could not be written, for a failure or for want of room.
    """

    def __init__(
        self, table: PlainTable, owner: str, grow: Callable[[int, int], bool] = lambda *_: False
    ) -> None:
        """``grow`` makes room for so many services and backends more; False if it cannot."""
        self.conflicts: dict[PlainFrontend, str] = {}
        self.owed: dict[PlainFrontend, PlainService] = {}
        self._owed_removals: dict[PlainFrontend, None] = {}
        self._conflicting: dict[PlainFrontend, PlainService] = {}
        self._table = table
        self._owner = owner
        self._grow = grow
        self._unfit = self._told_unfit = 0

    @property
    def owing(self) -> int:
        """How many services could not be written, or not be removed."""
        return len(self.owed) + len(self._owed_removals)

    @property
    def behind(self) -> bool:
        """Whether there is something to be tried again before long."""
        return bool(self.owing or self._conflicting)

    def write(self, put: Iterable[PlainService], remove: Iterable[PlainFrontend] = ()) -> Written:
        """Make the table hold these and not those; what is there already costs no write.

        Raises what the table raises; what was not written is owed then.
        """
        services = {frontend_of(service): service for service in put}
        gone = dict.fromkeys(remove)
        for frontend in (*services, *gone):
            for kept in (self.owed, self._owed_removals, self._conflicting):
                kept.pop(frontend, None)
        try:
            return self._write(services, gone)
        except HostreachError:
            self.owed.update(services)
            self._owed_removals.update(gone)
            raise

    def retry(self) -> Written:
        """What is owed, and what others may have let go of by now."""
        return self.write(
            [*self.owed.values(), *self._conflicting.values()], [*self._owed_removals]
        )

    def prune(self, wanted: Callable[[PlainFrontend], bool]) -> int:
        """Remove this owner's services that are not ``wanted``; only after all are known."""
        rows = self._table.rows(self._owner)
        stale = [at for row in rows if not wanted(at := parse_frontend(row.frontend))]
        return self.write([], stale).removed

    def make_room(self) -> bool:
        """Let the table grow if something is owed for want of room; True if it did."""
        if not self._unfit:
            self._told_unfit = 0
            return False
        why = "no table can be larger"
        try:
            backends = sum(len(service[6]) for service in self.owed.values())
            if self._grow(len(self.owed), backends):
                return True
        except HostreachError as error:
            why = str(error)
        if self._unfit != self._told_unfit:
            log.error("%d services do not fit into the tables: %s", self._unfit, why)
        self._told_unfit = self._unfit
        return False

    def _write(
        self, services: dict[PlainFrontend, PlainService], gone: dict[PlainFrontend, None]
    ) -> Written:
        listed = [*services.values()]
        differing = [listed[i] for i in self._table.plain_differing(listed)]
        for frontend in services.keys() - {frontend_of(service) for service in differing}:
            self._settle(frontend)
        ours = [at for at in gone if self._table.plain_owner(at) == self._owner]
        for frontend in gone:
            self.conflicts.pop(frontend, None)
        if not differing and not ours:
            return Written(0, 0)
        with self._table.exclusive():
            return self._write_locked(differing, ours)

    def _write_locked(self, services: list[PlainService], gone: list[PlainFrontend]) -> Written:
        """With the lock: nobody takes a frontend between the look and the write."""
        mine = []
        for service in services:
            frontend = frontend_of(service)
            owner = self._table.plain_owner(frontend)
            if owner in (None, self._owner):
                mine.append(service)
            else:
                self._conflict(frontend, service, owner or "")
        gone = [at for at in gone if self._table.plain_owner(at) == self._owner]
        unfit = self._write_fitting(mine, gone)
        self.owed.update({frontend_of(service): service for service in unfit})
        self._unfit = len(unfit)
        return Written(len(mine) - len(unfit), len(gone))

    def _write_fitting(
        self, services: list[PlainService], gone: list[PlainFrontend]
    ) -> list[PlainService]:
        """All of them or, where there is no room, those that fit; the others come back."""
        try:
            self._table.plain_write(services, gone)
        except TableFull:
            if gone:
                self._table.plain_write([], gone)
            if len(services) <= 1:
                return services
            half = len(services) // 2
            return self._write_fitting(services[:half], []) + self._write_fitting(
                services[half:], []
            )
        for service in services:
            self._settle(frontend_of(service))
        return []

    def _settle(self, frontend: PlainFrontend) -> None:
        if self.conflicts.pop(frontend, None):
            log.info("%s: its other owner has let go of it", format_frontend(*frontend))

    def _conflict(self, frontend: PlainFrontend, service: PlainService, owner: str) -> None:
        self._conflicting[frontend] = service
        if self.conflicts.get(frontend) != owner:
            self.conflicts[frontend] = owner
            name = f"{service[3]}: " if service[3] else ""
            shown = format_frontend(*frontend)
            log.warning("%s%s is left alone, for '%s' owns it", name, shown, owner)
