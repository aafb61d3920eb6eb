# SPDX-License-Identifier: Apache-2.0
"""The tables' lock: who reads, who writes, and what a batch of writes begins and ends with."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar
from weakref import WeakSet

from hostreach import _core
from hostreach.ending import EndedSocket, EndResult
from hostreach.errors import AbiMismatch, HostreachError, NotFound, Refused, TableBusy
from hostreach.options import Capacities

from .kernel import mounted_root

LOCK_TIMEOUT = 30.0
"""Seconds: longer than any batch takes; who holds the lock longer is stopped or stuck."""
LOCK_SLICE_MS = 100
_META = "meta"
"""The table by which a directory is known to be an instance's."""

_T = TypeVar("_T")


class _Lock(AbstractContextManager[None]):
    """Not a generator: single changes would spend a fifth of their time in contextlib."""

    __slots__ = ("_exclusive", "_table")

    def __init__(self, table: LockedTable, *, exclusive: bool) -> None:
        self._table = table
        self._exclusive = exclusive

    def __enter__(self) -> None:
        self._table.enter(exclusive=self._exclusive)

    def __exit__(self, *_: object) -> None:
        self._table.leave()


class _Batch(AbstractContextManager[None]):
    __slots__ = ("_grow", "_held", "_made", "_make", "_table")

    def __init__(self, table: LockedTable, make: bool, grow: Callable[[], None] | None) -> None:
        self._table = table
        self._make = make
        self._grow = grow
        self._made = self._held = False

    def __enter__(self) -> None:
        table = self._table
        table.thread.acquire()
        try:
            if not table.depth:
                table.last_ended = None
            self._made = table.begin(self._make, self._grow)
            self._held = True
        except NotFound:
            if self._make:
                table.thread.release()
                raise
        except BaseException:
            table.thread.release()
            raise

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        table = self._table
        try:
            if not self._held:
                return
            try:
                if error is not None:
                    table.fail(error, self._made)
            finally:
                table.leave()
            if error is None and not table.depth:
                table.end_due()
        finally:
            table.thread.release()


class LockedTable:
    """The pinned tables of one instance, to be read and written under their lock."""

    def __init__(self, pin: str, capacities: Capacities, *, at_least: bool = False) -> None:
        self._pin = pin
        self._cgroup_mount = mounted_root()
        self._core = _core.Table(pin, LOCK_SLICE_MS, self._cgroup_mount)
        self._capacities = capacities
        self._at_least = at_least
        self._checked = at_least or not any(capacities)
        self.thread = threading.RLock()  # of those who share this object
        self._grown = False
        self._migrated = False
        self.depth = 0
        self._exclusive = False
        self.last_ended: EndResult | None = None
        self.wrote = False
        _tables.add(self)

    @property
    def _sizes(self) -> tuple[int, int, int]:
        services, backends, slots = (size or 0 for size in self._capacities)
        return services, backends, slots

    @property
    def _sizes_now(self) -> tuple[int, int, int]:
        """What is asked of tables that are there; under their lock."""
        asked = self._sizes
        if not self._at_least:
            return asked
        services, backends, slots = map(max, asked, self._core.capacities())
        return services, backends, slots

    def _create(self) -> bool:
        _require_apart(self._pin)
        made = self._retry(lambda: self._core.create(*self._sizes))
        self._checked = True
        return made

    def _retry(self, take: Callable[[], _T]) -> _T:
        """Wait for the lock, but let Ctrl-C through every now and then."""
        deadline = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                return take()
            except TableBusy:  # noqa: PERF203 - it waits anyway
                if time.monotonic() >= deadline:
                    raise

    def locked(self, *, exclusive: bool) -> AbstractContextManager[None]:
        """Hold the lock; reentrant, and within an exclusive lock a shared one is had already.

        Raises `NotFound` if there are no tables, `TableBusy`, `AbiMismatch`.
        """
        return _Lock(self, exclusive=exclusive)

    def exclusive(
        self, *, make: bool = True, grow: Callable[[], None] | None = None
    ) -> AbstractContextManager[None]:
        """See `hostreach.table.Table.exclusive`; makes the tables if need be.

        Raises `Refused` if they are there and their size is not the one that was asked for; with
        ``grow`` only if it is larger, and otherwise lets them grow, unless ``grow`` raises. Tables
        made for a batch that then fails are removed again: a failure changes nothing.

        Sockets whose backend went with the batch are ended after it, with the lock given back:
        `last_ended` tells.
        """
        return _Batch(self, make, grow)

    def enter(self, *, exclusive: bool) -> None:
        """What `locked` begins with."""
        self.thread.acquire()
        try:
            if not self.depth:
                try:
                    self._core.lock(exclusive)
                except TableBusy:
                    self._retry(lambda: self._core.lock(exclusive))
                self._exclusive = exclusive
            elif exclusive and not self._exclusive:
                raise RuntimeError("an exclusive lock cannot be had inside a shared one")
            self.depth += 1
        except BaseException:
            self.thread.release()
            raise

    def leave(self) -> None:
        """What it ends with."""
        try:
            self.depth -= 1
            if not self.depth:
                self._core.unlock()
        finally:
            self.thread.release()

    def begin(self, make: bool, grow: Callable[[], None] | None) -> bool:
        """Take the lock for a batch; whether that made the tables."""
        made = False
        if not self.depth and not self._checked and not grow:
            if not make:
                with self.locked(exclusive=False):
                    pass
            made = self._create()
        try:
            self.enter(exclusive=True)
        except NotFound:
            if not make:
                raise
            made = self._create()
            self.enter(exclusive=True)
        except AbiMismatch:
            if not grow:
                raise
            self._migrate(grow)
            self.enter(exclusive=True)
        if grow:
            try:
                grow()
                self._grown = any(self._capacities) and self._core.grow(*self._sizes_now)
                self._checked = True
            except BaseException as error:
                self.fail(error, made)
                self.leave()
                raise
        return made

    def fail(self, error: BaseException, made: bool) -> None:
        """Tables that were made for a batch that failed go again, with the lock still held."""
        if (
            made
            and isinstance(error, HostreachError)
            and not self._core.rows(None)
            and not self._core.is_attached()
        ):
            self._core.purge()
            self._checked = self._at_least or not any(self._capacities)

    def end_due(self) -> None:
        """End the sockets that the batch left to be ended."""
        if self._core.ends_due():
            try:
                self.last_ended = self._end_sockets(dry_run=False)
            except HostreachError as error:  # the batch is done all the same
                self.last_ended = EndResult(problem=str(error))

    def _migrate(self, check: Callable[[], None]) -> None:
        """Bring tables of an older layout to this version's."""
        self._retry(lambda: self._core.lock_only())
        try:
            check()
            self._migrated = self._core.migrate()
        finally:
            self._core.unlock()

    def _end_sockets(self, dry_run: bool) -> EndResult:
        return end_result(_core.end_sockets(self._core, dry_run), dry_run)

    def close(self) -> None:
        """Let go of the maps; the next use opens them again."""
        with self.thread:
            self._core.close()

    def forget_threads(self) -> None:
        """Begin anew, in the child of a fork, if another thread was at work: it is not here."""
        if self.thread.acquire(blocking=False):
            self.thread.release()
            return
        self._core.abandon()
        self._core = _core.Table(self._pin, LOCK_SLICE_MS, self._cgroup_mount)
        self.thread = threading.RLock()
        self.depth = 0
        self._exclusive = False
        self.last_ended = None


_tables: WeakSet[LockedTable] = WeakSet()


def _after_fork() -> None:
    for table in _tables:
        table.forget_threads()


os.register_at_fork(after_in_child=_after_fork)


def _require_apart(pin: str) -> None:
    """Inside another instance's directory are its links and tables, and nobody else's."""
    if os.path.exists(f"{pin}/{_META}"):  # noqa: PTH110 - as quick as can be
        return  # it was made before this was looked for, and can be used and purged
    above = os.path.dirname(os.path.realpath(pin))  # noqa: PTH120
    while above != "/":
        if os.path.exists(f"{above}/{_META}"):  # noqa: PTH110
            raise Refused(f"lies inside the instance at {above}; use another --pin", object=pin)
        above = os.path.dirname(above)  # noqa: PTH120


def end_result(found: _core.Ended, dry_run: bool) -> EndResult:
    sockets, namespaces, unreachable, left, method, problem = found
    return EndResult(
        [EndedSocket(*socket) for socket in sockets],
        dry_run,
        method or None,
        namespaces,
        unreachable,
        left,
        problem or None,
    )
