# SPDX-License-Identifier: Apache-2.0
"""`Services`: what is done with a table of services.

What adding, setting, owning and applying mean is decided here, for every `hostreach.table.Table`.
The models, which cost 50 ms to import, are loaded when a service is first named: listing rows does
without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeGuard

from . import collector
from .cgroup import find_root
from .changes import Change
from .errors import AlreadyExists, InvalidInput, NotFound, OwnerConflict
from .plain import model_of, plain_frontend
from .rules import check_backends
from .syntax import (
    OWNER_MAX,
    check_label,
    format_endpoint,
    format_frontend,
    frontend_key,
    parse_endpoint,
    parse_frontend,
)

if TYPE_CHECKING:
    from .models import Backend, Frontend, Service
    from .plain import PlainBackend, PlainFrontend, PlainService, PlainSubtree
    from .table import Row, Table

__all__ = ["Change", "Inspection", "Services"]

PlainBackends: TypeAlias = "list[PlainBackend]"  # in `Services`, `list` is a method


class Inspection(NamedTuple):
    """A service and, for each of its backends, what the table knows of it."""

    service: Service
    shares: list[int]
    """Slots of the selection table; for ``node``, of that of the backend's family."""
    active: list[int]
    """Connections open from this node."""


class Services:
    """The services of one instance: what ``node.services`` is.

    Frontends may be given as text. Every method that writes returns what changed, and either does
    all that it was asked for or raises and changes nothing. A service may be changed or removed
    only in the name of its owner (`OwnerConflict`). All may raise `InvalidInput`, `TableBusy`,
    `AbiMismatch`, `PermissionDenied` and `KernelError`, and those that write `TableFull` too.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, frontend: str | Frontend) -> Service:
        """The service at ``frontend``; raises `NotFound`."""
        key = key_of(frontend)
        service = self._table.plain_get(key)
        if service is None:
            raise NotFound("no such service", object=format_frontend(*key))
        return model_of(service)

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
        services: Iterable[Service | PlainService],
        *,
        owner: str = "manual",
        prune: bool = False,
        dry_run: bool = False,
        remove: Iterable[str | Frontend | PlainFrontend] = (),
        on_missing_cgroup: Callable[[PlainFrontend, str], None] | None = None,
    ) -> list[Change]:
        """Make the table hold ``services`` and not those to ``remove``; give back what changed.

        Sorted. Services may be plain values, from whoever checked them. Nothing is taken over
        from another owner, nor taken away. ``prune`` also removes those of ``owner``'s services
        that are not among ``services``; ``dry_run`` changes nothing and tells what would. A service
        for a cgroup that is not there is refused or, with ``on_missing_cgroup``, left as it is and
        told to that, with the cgroup's path.
        """
        check_label(owner, "owner", OWNER_MAX)  # None would be everybody, to `prune`
        wanted: dict[PlainFrontend, Service | PlainService] = {}
        for service in services:
            key = _key_of_service(service)
            if key in wanted:
                raise InvalidInput("this service is given twice", object=format_frontend(*key))
            wanted[key] = service
        gone = dict.fromkeys(map(key_of, remove))
        if both := wanted.keys() & gone.keys():
            raise InvalidInput("this service is given twice", object=format_frontend(*min(both)))
        table = self._table
        with collector.paused(), self._writing(dry_run):
            listed = [self._plain(each) for each in wanted.values()]
            changes: list[Change] = []
            for i, before in table.plain_changes(listed):
                after = listed[i]
                if before is not None:
                    _check_owner(before, after[4])
                if on_missing_cgroup and _lacks_cgroup(before, after):
                    continue
                _check_cgroup(before, after)
                changes.append(Change("set" if before else "add", before, after))
            for key in gone:
                if (old := table.plain_get(key)) is not None:
                    _check_owner(old, owner)
                    changes.append(Change("remove", old, None))
            if prune:
                changes += [
                    Change("remove", old, None)
                    for old in table.plain_list(owner)
                    if old[:3] not in wanted and old[:3] not in gone
                ]
            self._write(changes, dry_run)
        if on_missing_cgroup:
            changed = {change.key for change in changes}
            for each in listed:
                if _has_gone(cgroup := each[9]) and each[:3] not in changed:
                    on_missing_cgroup(each[:3], cgroup[0])
        changes.sort(key=lambda change: frontend_key(*change.key))
        return changes

    def list(self, owner: str | None = None) -> list[Service]:
        """All services, or one owner's, sorted."""
        with collector.paused():
            return self._table.list(owner)

    def __iter__(self) -> Iterator[Service]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self._table.rows())

    def __contains__(self, wanted: str | Frontend | Service) -> bool:
        """Whether there is a service at this frontend; of a `Service`, whether it is just this."""
        from .models import Service

        frontend = wanted.frontend if isinstance(wanted, Service) else wanted
        found = self._table.plain_get(key_of(frontend))
        return found is not None and (frontend is wanted or model_of(found) == wanted)

    def add(self, service: Service | PlainService, *, if_missing: bool = False) -> Change | None:
        """Add a service; raises `AlreadyExists`, or returns None with ``if_missing``."""
        with self._table.exclusive():
            after = self._plain(service)
            if self._table.plain_get(after[:3]) is not None:
                if if_missing:
                    return None
                raise AlreadyExists(
                    "this service exists already; use set to replace it",
                    object=format_frontend(*after[:3]),
                )
            _check_cgroup(None, after)
            return self._write_one(Change("add", None, after))

    def set(self, service: Service | PlainService, *, dry_run: bool = False) -> Change | None:
        """Make the service exactly this, added or replaced; None when it was so before.

        With ``dry_run``, here and in what follows, nothing is changed: the change is what would be.
        """
        with self._writing(dry_run):
            after = self._plain(service)
            for _, before in self._table.plain_changes([after]):
                _check_cgroup(before, after)
                if before is None:
                    return self._write_one(Change("add", None, after), dry_run)
                _check_owner(before, after[4])
                return self._write_one(Change("set", before, after), dry_run)
        return None

    def remove(
        self,
        frontend: str | Frontend,
        *,
        if_exists: bool = False,
        owner: str = "manual",
        dry_run: bool = False,
    ) -> Change | None:
        """Remove a service; raises `NotFound`, or returns None with ``if_exists``."""
        key = key_of(frontend)
        with self._writing(dry_run, make=False):
            before = self._table.plain_get(key)
            if before is None and if_exists:
                return None
            return self._write_one(Change("remove", _owned(before, key, owner), None), dry_run)

    def add_backend(
        self,
        frontend: str | Frontend,
        backend: str | Backend | PlainBackend,
        *,
        if_missing: bool = False,
        owner: str = "manual",
    ) -> Change | None:
        """Add a backend, last; raises `AlreadyExists` if its address is there at any weight."""
        new, key = _backend(backend), key_of(frontend)
        with self._table.exclusive(make=False):
            before = _owned(self._table.plain_get(key), key, owner)
            if any(old[0] == new[0] for old in before[6]):
                if if_missing:
                    return None
                raise AlreadyExists(
                    f"backend {new[0]} exists already; use set to change it",
                    object=format_frontend(*key),
                )
            return self._set_backends(before, [*before[6], new])

    def set_backend(
        self,
        frontend: str | Frontend,
        backend: str | Backend | PlainBackend,
        *,
        owner: str = "manual",
        dry_run: bool = False,
    ) -> Change | None:
        """Make the backend exactly this, added or replaced in place; None when it was so before."""
        new, key = _backend(backend), key_of(frontend)
        with self._writing(dry_run, make=False):
            before = _owned(self._table.plain_get(key), key, owner)
            backends = [new if old[0] == new[0] else old for old in before[6]]
            if new not in backends:
                backends.append(new)
            if backends == before[6]:
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
        if not isinstance(address, str):
            raise _wrong_type("a backend's address", "text", address)
        gone, key = format_endpoint(*parse_endpoint(address)), key_of(frontend)
        with self._writing(dry_run, make=False):
            before = _owned(self._table.plain_get(key), key, owner)
            backends = [old for old in before[6] if old[0] != gone]
            if len(backends) == len(before[6]):
                if if_exists:
                    return None
                raise NotFound(f"no such backend: {gone}", object=format_frontend(*key))
            return self._set_backends(before, backends, dry_run)

    def _plain(self, service: Service | PlainService) -> PlainService:
        if isinstance(service, tuple):
            return service
        try:
            return self._table.plain(service)
        except AttributeError:
            _key_of_service(service)  # says so of what is no service at all
            raise

    def _set_backends(
        self, before: PlainService, backends: PlainBackends, dry_run: bool = False
    ) -> Change:
        key = before[:3]
        try:
            check_backends(key, before[5], [address for address, _, _ in backends])
        except InvalidInput as error:
            raise InvalidInput(error.message, object=format_frontend(*key)) from None
        after = (*before[:6], backends, *before[7:])
        if before[9] is not None:  # its cgroup may be another by now
            after = self._table.plain(model_of(after))
        return self._write_one(Change("set", before, after), dry_run)

    def _writing(self, dry_run: bool, make: bool = True) -> AbstractContextManager[None]:
        """Only a writer takes the lock, which makes tables where there are none."""
        return nullcontext() if dry_run else self._table.exclusive(make=make)

    def _write_one(self, change: Change, dry_run: bool = False) -> Change:
        self._write([change], dry_run)
        return change

    def _write(self, changes: Sequence[Change], dry_run: bool) -> None:
        if changes:
            write = self._table.plain_check_room if dry_run else self._table.plain_write
            write(
                [change.plain_after for change in changes if change.plain_after is not None],
                [change.key for change in changes if change.plain_after is None],
            )


def key_of(frontend: str | Frontend | PlainFrontend) -> PlainFrontend:
    """As tables take it; raises `InvalidInput` for text that names none."""
    if isinstance(frontend, tuple):
        return frontend
    if isinstance(frontend, str):
        return parse_frontend(frontend)
    try:
        return plain_frontend(frontend)
    except AttributeError:
        raise _wrong_type("a frontend", "text or a Frontend", frontend) from None


def _key_of_service(service: Service | PlainService) -> PlainFrontend:
    if isinstance(service, tuple):
        return service[:3]
    try:
        return plain_frontend(service.frontend)
    except AttributeError:
        raise _wrong_type("a service", "a Service", service) from None


def _wrong_type(what: str, wanted: str, given: object) -> TypeError:
    return TypeError(f"{what} is {wanted}, not {type(given).__name__}")


def _backend(backend: str | Backend | PlainBackend) -> PlainBackend:
    if isinstance(backend, tuple):
        return backend
    if isinstance(backend, str):
        if "," not in backend:  # then there is no model to ask
            return format_endpoint(*parse_endpoint(backend)), 1, "active"
        from .models import Backend

        backend = Backend.parse(backend)
    try:
        return backend.address, backend.weight, backend.state
    except AttributeError:
        raise _wrong_type("a backend", "text or a Backend", backend) from None


def _owned(service: PlainService | None, key: PlainFrontend, owner: str) -> PlainService:
    """The service, to be changed in the name of ``owner``."""
    if service is None:
        raise NotFound("no such service", object=format_frontend(*key))
    _check_owner(service, owner)
    return service


def _has_gone(cgroup: PlainSubtree | None) -> TypeGuard[PlainSubtree]:
    return cgroup is not None and not cgroup[1]


def _lacks_cgroup(before: PlainService | None, after: PlainService) -> bool:
    """Of a cgroup that is gone the table still knows the id, if it is that of the same service."""
    if not _has_gone(wanted := after[9]):
        return False
    return before is None or before[9] is None or before[9][0] != wanted[0]


def check_cgroup(service: PlainService) -> None:
    """Raises `InvalidInput` if its cgroup is not there, `Refused` if no cgroup v2 is mounted."""
    if _has_gone(cgroup := service[9]):
        find_root()
        raise InvalidInput(
            f"from_cgroup {cgroup[0]}: no such cgroup v2 directory",
            object=format_frontend(*service[:3]),
        )


def _check_cgroup(before: PlainService | None, after: PlainService) -> None:
    if _lacks_cgroup(before, after):
        check_cgroup(after)


def _check_owner(service: PlainService, owner: str) -> None:
    if service[4] != owner:
        raise OwnerConflict(
            f"belongs to owner '{service[4]}'; pass --owner {service[4]}",
            object=format_frontend(*service[:3]),
        )
