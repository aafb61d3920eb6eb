# SPDX-License-Identifier: Apache-2.0
"""Cgroups whose tasks see no service at all, such as those of a mesh sidecar's pods.

Which cgroup a task is in decides, at each connect and send: a socket that was passed to a task
elsewhere follows the task. What is connected already stays so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from os import PathLike, fspath
from typing import Protocol

from .errors import AlreadyExists, HostreachError, InvalidInput, NotFound
from .syntax import parse_cgroup

__all__ = ["ExemptTable", "Exemptions"]


class ExemptTable(Protocol):
    """Where exempt cgroups are kept: by what they are, so a path may be written in two ways."""

    def exclusive(self) -> AbstractContextManager[None]:
        """As `hostreach.table.Table.exclusive`."""

    def exempt(self, cgroup: str) -> bool:
        """Add this one; False if it was there already.

        Raises `InvalidInput` for a path that is no cgroup v2 directory, `TableFull`, and `Refused`
        where the kernel does not tell programs a task's cgroup.
        """

    def unexempt(self, cgroup: str) -> bool:
        """Remove this one; False if it was not there, or is no cgroup any more."""

    def exempted(self) -> list[str]:
        """The paths, sorted, of those cgroups that still exist."""


class Exemptions:
    """The exempt cgroups of one instance: what ``node.exempt`` is.

    Tasks in a cgroup below an exempt one are exempt too. Both methods that write do all that they
    were asked for, or raise and change nothing.
    """

    def __init__(self, table: ExemptTable) -> None:
        self._table = table

    def add(self, *paths: str | PathLike[str], if_missing: bool = False) -> list[str]:
        """Exempt these cgroups; give back those that were not before.

        Raises `AlreadyExists` if one was, unless ``if_missing``, and `InvalidInput` for what is no
        cgroup.
        """
        wanted = _parse(paths)
        new: list[str] = []
        with self._table.exclusive():
            try:
                for path in wanted:
                    if self._table.exempt(path):
                        new.append(path)
                    elif not if_missing:
                        raise AlreadyExists("is exempt already", object=path)
            except HostreachError:
                for path in new:
                    self._table.unexempt(path)
                raise
        return new

    def remove(self, *paths: str | PathLike[str], if_exists: bool = False) -> list[str]:
        """Exempt these cgroups no longer; give back those that were.

        Raises `NotFound` if one was not, unless ``if_exists``.
        """
        wanted = _parse(paths)
        gone: list[str] = []
        # The lock makes tables where there are none.
        with self._table.exclusive() if self._table.exempted() else nullcontext():
            try:
                for path in wanted:
                    if self._table.unexempt(path):
                        gone.append(path)
                    elif not if_exists:
                        raise NotFound("is not exempt", object=path)
            except HostreachError:
                for path in gone:
                    self._table.exempt(path)
                raise
        return gone

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.exempted())

    # Last: below it, list is this.
    def list(self) -> list[str]:
        """The exempt cgroups' paths, sorted."""
        return self._table.exempted()


def _parse(paths: Sequence[str | PathLike[str]]) -> list[str]:
    parsed = [parse_cgroup(fspath(path)) for path in paths]
    for i, path in enumerate(parsed):
        if path in parsed[:i]:
            raise InvalidInput("this cgroup is given twice", object=path)
    return parsed
