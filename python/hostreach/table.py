# SPDX-License-Identifier: Apache-2.0
"""The table of services: `Table`, the one seam to the kernel, and `Services`, what is done with it.

`Table` only stores; what adding, setting, owning and applying mean is decided here, once, for the
kernel's table and for `hostreach.testing.MemoryTable` alike. The models, which cost 50 ms to
import, are loaded when a service is first named: listing rows does without them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from .errors import AlreadyExists, InvalidInput, NotFound, OwnerConflict
from .slots import service_slots, slot_counts

if TYPE_CHECKING:
    from .models import Backend, Frontend, Service
    from .plain import PlainFrontend, PlainService

__all__ = [
    "Change",
    "Inspection",
    "PlainTable",
    "Row",
    "Services",
    "Table",
    "service_slots",
    "slot_counts",
]


class Change(NamedTuple):
    """One service before and after: ``add`` has no before, ``remove`` no after."""

    action: Literal["add", "set", "remove"]
    frontend: Frontend
    before: Service | None
    after: Service | None


class Row(NamedTuple):
    """A service in one line, in plain values."""

    frontend: str
    name: str | None
    owner: str
    algorithm: str
    backends: int


class Inspection(NamedTuple):
    """A service and, for each of its backends, what the table knows of it."""

    service: Service
    shares: list[int]
    """Slots of the selection table; for ``node``, of that of the backend's family."""
    active: list[int]
    """Connections open from this node."""


class Table(Protocol):
    """Where services are kept. Nothing here knows what an owner may do."""

    def exclusive(self) -> AbstractContextManager[None]:
        """One writer at a time; reentrant. The calls made inside it are one batch.

        Raises `TableBusy` when another writer does not let go in time.
        """

    def get(self, frontend: Frontend) -> Service | None:
        """The service, or None."""

    def rows(self, owner: str | None = None) -> list[Row]:
        """As `list`, in short. Must not import the models."""

    def shares(self, frontend: Frontend) -> list[int]:
        """How many slots each backend has, in the service's order; empty if it is not there."""

    def active(self, frontend: Frontend) -> list[int]:
        """How many connections from this node each backend has open, the same."""

    def differing(self, services: Sequence[Service]) -> list[Service]:
        """Those of ``services`` that the table lacks or holds differently, in the order given."""

    def write(self, put: Sequence[Service], remove: Sequence[Frontend] = ()) -> None:
        """Remove those, add or replace these.

        Frontends that are not there are passed over. Whether everything fits is checked first:
        `TableFull` is raised before anything is written.
        """

    def list(self, owner: str | None = None) -> list[Service]:
        """All services, or one owner's, sorted; always a state that some writer acknowledged."""


class PlainTable(Protocol):
    """The same table for whoever writes very many services, and has checked them: no models.

    Nothing here knows what an owner may do either.
    """

    def exclusive(self) -> AbstractContextManager[None]:
        """As `Table.exclusive`."""

    def rows(self, owner: str | None = None) -> list[Row]:
        """As `Table.rows`."""

    def plain(self, service: Service) -> PlainService:
        """As the other methods take it.

        Raises `InvalidInput` for a ``from_cgroup`` that is no cgroup, `Refused` where programs do
        not know a task's cgroup.
        """

    def plain_owner(self, frontend: PlainFrontend) -> str | None:
        """Whose service this is; None if there is none."""

    def plain_differing(self, services: Sequence[PlainService]) -> list[int]:
        """As `Table.differing`, by index."""

    def plain_write(
        self, put: Sequence[PlainService], remove: Sequence[PlainFrontend] = ()
    ) -> None:
        """As `Table.write`; raises `TableFull`."""


class Services:
    """The services of one instance: what ``node.services`` is.

    Frontends may be given as text. Every method that writes returns what changed, and either does
    all that it was asked for or raises and changes nothing. A service may be changed or removed
    only in the name of its owner (`OwnerConflict`).
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, frontend: str | Frontend) -> Service:
        """The service at ``frontend``; raises `NotFound`."""
        key = _frontend(frontend)
        service = self._table.get(key)
        if service is None:
            raise NotFound("no such service", object=str(key))
        return service

    def shares(self, frontend: str | Frontend) -> list[int]:
        """How many slots of the selection table each backend has; raises `NotFound`."""
        return self.inspect(frontend).shares

    def active(self, frontend: str | Frontend) -> list[int]:
        """How many connections from this node each backend has open; raises `NotFound`."""
        return self.inspect(frontend).active

    def inspect(self, frontend: str | Frontend) -> Inspection:
        """The service with both of these, of one moment; raises `NotFound`."""
        service = self.get(frontend)
        while True:
            key = service.frontend
            found = Inspection(service, self._table.shares(key), self._table.active(key))
            # Readers take no lock from one call to the next.
            service = self.get(key)
            sizes = {len(found.shares), len(found.active)}
            if service == found.service and sizes == {len(service.backends)}:
                return found

    def rows(self, owner: str | None = None) -> list[Row]:
        """All services, or one owner's, sorted and in short; quick."""
        return self._table.rows(owner)

    def apply(
        self,
        services: Iterable[Service],
        *,
        owner: str = "manual",
        prune: bool = False,
        dry_run: bool = False,
    ) -> list[Change]:
        """Make the table hold ``services``; give back what changed, sorted.

        Nothing is taken over from another owner. ``prune`` also removes those of ``owner``'s
        services that are not among ``services``; ``dry_run`` changes nothing and tells what would.
        """
        wanted: dict[Frontend, Service] = {}
        for service in services:
            if service.frontend in wanted:
                raise InvalidInput("this service is given twice", object=str(service.frontend))
            wanted[service.frontend] = service
        changes: list[Change] = []
        with self._writing(dry_run):
            for service in self._table.differing([*wanted.values()]):
                before = self._table.get(service.frontend)
                if before is not None:
                    _check_owner(before, service.owner)
                action: Literal["add", "set"] = "set" if before else "add"
                changes.append(Change(action, service.frontend, before, service))
            if prune:
                changes += [
                    Change("remove", old.frontend, old, None)
                    for old in self._table.list(owner)
                    if old.frontend not in wanted
                ]
            if not dry_run:
                self._write(changes)
        changes.sort(key=lambda change: change.frontend.sort_key)
        return changes

    def list(self, owner: str | None = None) -> list[Service]:
        """All services, or one owner's, sorted."""
        return self._table.list(owner)

    def __iter__(self) -> Iterator[Service]:
        return iter(self._table.list())

    def __len__(self) -> int:
        return len(self._table.rows())

    def add(self, service: Service, *, if_missing: bool = False) -> Change | None:
        """Add a service; raises `AlreadyExists`, or returns None with ``if_missing``."""
        with self._table.exclusive():
            if self._table.get(service.frontend) is not None:
                if if_missing:
                    return None
                raise AlreadyExists(
                    "this service exists already; use set to replace it",
                    object=str(service.frontend),
                )
            return self._write_one(Change("add", service.frontend, None, service))

    def set(self, service: Service, *, dry_run: bool = False) -> Change | None:
        """Make the service exactly this, added or replaced; None when it was so before.

        With ``dry_run``, here and in what follows, nothing is changed: the change is what would be.
        """
        with self._writing(dry_run):
            before = self._table.get(service.frontend)
            if before == service:
                return None
            if before is None:
                return self._write_one(Change("add", service.frontend, None, service), dry_run)
            _check_owner(before, service.owner)
            return self._write_one(Change("set", service.frontend, before, service), dry_run)

    def remove(
        self,
        frontend: str | Frontend,
        *,
        if_exists: bool = False,
        owner: str = "manual",
        dry_run: bool = False,
    ) -> Change | None:
        """Remove a service; raises `NotFound`, or returns None with ``if_exists``."""
        key = _frontend(frontend)
        if if_exists and self._table.get(key) is None:
            return None
        self._owned(key, owner)
        with self._writing(dry_run):
            before = self._owned(key, owner)
            return self._write_one(Change("remove", key, before, None), dry_run)

    def add_backend(
        self,
        frontend: str | Frontend,
        backend: str | Backend,
        *,
        if_missing: bool = False,
        owner: str = "manual",
    ) -> Change | None:
        """Add a backend, last; raises `AlreadyExists` if its address is there at any weight."""
        new = _backend(backend)
        self._owned(frontend, owner)
        with self._table.exclusive():
            before = self._owned(frontend, owner)
            if any(old.address == new.address for old in before.backends):
                if if_missing:
                    return None
                raise AlreadyExists(
                    f"backend {new.address} exists already; use set to change it",
                    object=str(before.frontend),
                )
            return self._set_backends(before, (*before.backends, new))

    def set_backend(
        self,
        frontend: str | Frontend,
        backend: str | Backend,
        *,
        owner: str = "manual",
        dry_run: bool = False,
    ) -> Change | None:
        """Make the backend exactly this, added or replaced in place; None when it was so before."""
        new = _backend(backend)
        self._owned(frontend, owner)
        with self._writing(dry_run):
            before = self._owned(frontend, owner)
            backends = tuple(new if old.address == new.address else old for old in before.backends)
            if new not in backends:
                backends = (*backends, new)
            if backends == before.backends:
                return None
            return self._set_backends(before, backends, dry_run)

    def remove_backend(
        self,
        frontend: str | Frontend,
        address: str,
        *,
        if_exists: bool = False,
        owner: str = "manual",
        dry_run: bool = False,
    ) -> Change | None:
        """Remove a backend; raises `NotFound`, or returns None with ``if_exists``."""
        gone = _backend(address).address
        self._owned(frontend, owner)
        with self._writing(dry_run):
            before = self._owned(frontend, owner)
            backends = tuple(old for old in before.backends if old.address != gone)
            if len(backends) == len(before.backends):
                if if_exists:
                    return None
                raise NotFound(f"no such backend: {gone}", object=str(before.frontend))
            return self._set_backends(before, backends, dry_run)

    def _owned(self, frontend: str | Frontend, owner: str) -> Service:
        """The service, to be changed. Called before the lock is taken too: that makes tables."""
        service = self.get(frontend)
        _check_owner(service, owner)
        return service

    def _set_backends(
        self, before: Service, backends: tuple[Backend, ...], dry_run: bool = False
    ) -> Change:
        from .models import Service, validate

        # Validated anew: the families must match, and there is a limit to their number.
        after = validate(
            Service,
            {**{key: getattr(before, key) for key in Service.model_fields}, "backends": backends},
            str(before.frontend),
        )
        return self._write_one(Change("set", before.frontend, before, after), dry_run)

    def _writing(self, dry_run: bool) -> AbstractContextManager[None]:
        """Only a writer takes the lock, which makes tables where there are none."""
        return nullcontext() if dry_run else self._table.exclusive()

    def _write_one(self, change: Change, dry_run: bool = False) -> Change:
        if not dry_run:
            self._write([change])
        return change

    def _write(self, changes: Iterable[Change]) -> None:
        changes = tuple(changes)
        if changes:
            self._table.write(
                [change.after for change in changes if change.after is not None],
                [change.frontend for change in changes if change.after is None],
            )


def _frontend(frontend: str | Frontend) -> Frontend:
    if not isinstance(frontend, str):
        return frontend
    from .models import Frontend

    return Frontend.parse(frontend)


def _backend(backend: str | Backend) -> Backend:
    if not isinstance(backend, str):
        return backend
    from .models import Backend

    return Backend.parse(backend)


def _check_owner(service: Service, owner: str) -> None:
    if service.owner != owner:
        raise OwnerConflict(
            f"belongs to owner '{service.owner}'; pass --owner {service.owner}",
            object=str(service.frontend),
        )
