# SPDX-License-Identifier: Apache-2.0
"""`Table`, the one seam to the kernel: where services are kept.

A table only stores; what adding, setting, owning and applying mean is decided in
`hostreach.services`, once, for the kernel's table and for `hostreach.testing.MemoryTable` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from .models import Frontend, Service
    from .plain import PlainFrontend, PlainService

__all__ = ["PlainTable", "Row", "Table"]


class Row(NamedTuple):
    """A service in one line, in plain values."""

    frontend: str
    name: str | None
    owner: str
    algorithm: str
    backends: int


class PlainTable(Protocol):
    """Where services are kept, for whoever has checked them and writes many: no models.

    Nothing here knows what an owner may do.
    """

    def exclusive(self, *, make: bool = True) -> AbstractContextManager[None]:
        """One writer at a time; reentrant. The calls made inside it are one batch.

        What they wrote stays if one of them, or the body, raises.

        Where there are no tables they are made or, without ``make``, nothing is found inside it.
        Raises `TableBusy` when another writer does not let go in time.
        """

    def rows(self, owner: str | None = None) -> list[Row]:
        """All services, or one owner's, sorted and in short. Must not import the models."""

    def plain(self, service: Service) -> PlainService:
        """As the other methods take it.

        Raises `InvalidInput` for a ``from_cgroup`` that is no cgroup, `Refused` where programs do
        not know a task's cgroup.
        """

    def plain_get(self, frontend: PlainFrontend) -> PlainService | None:
        """The service, or None."""

    def plain_owner(self, frontend: PlainFrontend) -> str | None:
        """Whose service this is; None if there is none."""

    def plain_list(self, owner: str | None = None) -> list[PlainService]:
        """All services, or one owner's, sorted; always a state that some writer acknowledged."""

    def plain_differing(self, services: Sequence[PlainService]) -> list[int]:
        """By index, those of ``services`` that the table lacks or holds differently."""

    def plain_changes(
        self, services: Sequence[PlainService]
    ) -> list[tuple[int, PlainService | None]]:
        """The same, and what the table holds instead."""

    def plain_write(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """Remove those, add or replace these.

        Frontends that are not there are passed over. Whether everything fits is checked first:
        `TableFull` is raised before anything is written.
        """

    def plain_check_room(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """Raise `TableFull` if `plain_write` would, as things are; nothing is made or written.

        For want of services, backends or slots: whom source ranges let in is not looked for.
        """


class Table(PlainTable, Protocol):
    """The same, for whoever looks at models."""

    def get(self, frontend: Frontend) -> Service | None:
        """As `plain_get`."""

    def shares(self, frontend: Frontend) -> list[int]:
        """How many slots each backend has, in the service's order; empty if it is not there."""

    def active(self, frontend: Frontend) -> list[int]:
        """How many connections from this node each backend has open, the same."""

    def differing(self, services: Sequence[Service]) -> list[Service]:
        """As `plain_differing`; the services themselves."""

    def write(self, put: Sequence[Service], remove: Sequence[Frontend] = ()) -> None:
        """As `plain_write`."""

    def list(self, owner: str | None = None) -> list[Service]:
        """As `plain_list`."""
