# SPDX-License-Identifier: Apache-2.0
"""The tables' lock: who reads, who writes, and what a batch of writes begins and ends with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from hostreach import _core
from hostreach.ending import EndedSocket, EndResult
from hostreach.errors import AbiMismatch, HostreachError, NotFound, TableBusy
from hostreach.options import Capacities

from .kernel import mounted_root

LOCK_TIMEOUT = 30.0
"""Seconds: longer than any batch takes; who holds the lock longer is stopped or stuck."""
LOCK_SLICE_MS = 100

_T = TypeVar("_T")


class LockedTable:
    """The pinned tables of one instance, to be read and written under their lock."""

    def __init__(self, pin: str, capacities: Capacities) -> None:
        self._pin = pin
        self._cgroup_mount = mounted_root()
        self._core = _core.Table(pin, LOCK_SLICE_MS, self._cgroup_mount)
        self._capacities = capacities
        self._checked = not any(capacities)
        self._thread = threading.RLock()
        self._grown = False
        self._migrated = False
        self._depth = 0
        self._exclusive = False
        self.last_ended: EndResult | None = None

    @property
    def _sizes(self) -> tuple[int, int, int]:
        services, backends, slots = (size or 0 for size in self._capacities)
        return services, backends, slots

    def _create(self) -> bool:
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

    @contextmanager
    def locked(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the lock; reentrant, and within an exclusive lock a shared one is had already.

        Raises `NotFound` if there are no tables, `TableBusy`, `AbiMismatch`.
        """
        with self._thread:
            if not self._depth:
                self._retry(lambda: self._core.lock(exclusive))
                self._exclusive = exclusive
            elif exclusive and not self._exclusive:
                raise RuntimeError("an exclusive lock cannot be had inside a shared one")
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if not self._depth:
                    self._core.unlock()

    @contextmanager
    def exclusive(self, *, grow: Callable[[], None] | None = None) -> Iterator[None]:
        """See `hostreach.table.Table.exclusive`; makes the tables if need be.

        Raises `Refused` if they are there and their size is not the one that was asked for; with
        ``grow`` only if it is larger, and otherwise lets them grow, unless ``grow`` raises. Tables
        made for a batch that then fails are removed again: a failure changes nothing.

        Sockets whose backend went with the batch are ended after it, with the lock given back:
        `last_ended` tells.
        """
        with self._thread:
            if not self._depth:
                self.last_ended = None
            with self._batch(grow):
                yield
            if not self._depth and self._core.ends_due():
                try:
                    self.last_ended = self._end_sockets(dry_run=False)
                except HostreachError as error:  # the batch is done all the same
                    self.last_ended = EndResult(problem=str(error))

    @contextmanager
    def _batch(self, grow: Callable[[], None] | None) -> Iterator[None]:
        with ExitStack() as stack:
            check = not self._depth and not self._checked and not grow
            made = check and self._create()
            try:
                stack.enter_context(self.locked(exclusive=True))
            except NotFound:
                made = self._create()
                stack.enter_context(self.locked(exclusive=True))
            except AbiMismatch:
                if not grow:
                    raise
                self._migrate(grow)
                stack.enter_context(self.locked(exclusive=True))
            try:
                if grow:
                    grow()
                    self._grown = any(self._capacities) and self._core.grow(*self._sizes)
                    self._checked = True
                yield
            except HostreachError:
                if made and not self._core.rows(None) and not self._core.is_attached():
                    self._core.purge()
                    self._checked = not any(self._capacities)
                raise

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
        with self._thread:
            self._core.close()


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
