# SPDX-License-Identifier: Apache-2.0
"""Who would connect: a process, by its cgroup and network namespace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .errors import InvalidInput


class Caller(NamedTuple):
    """Who connects. ``netns`` is a cookie; 0: it is not known, as where there are no tasks."""

    cgroup: str | None
    netns: int
    netns_of: int | None = None
    """The process that the network namespace is of; None: our own."""
    namespaces: int = 1
    """How many the cgroup's tasks are in."""


def caller(from_cgroup: str | None, root: str, cookie: Callable[[str | None], int]) -> Caller:
    """This process, or a task of a cgroup; ``cookie`` tells that of a network namespace's path.

    Raises `InvalidInput` for what is no directory.
    """
    if from_cgroup is None:
        return Caller(own_cgroup(root), cookie(None))
    path = os.path.realpath(from_cgroup)
    if not os.path.isfile(f"{path}/cgroup.procs"):  # noqa: PTH113 - as short
        raise InvalidInput("no cgroup v2 directory", object=from_cgroup)
    spaces: dict[int, int] = {}
    for pid in _tasks(path):
        try:
            spaces.setdefault(os.stat(f"/proc/{pid}/ns/net").st_ino, pid)  # noqa: PTH116
        except OSError:  # noqa: PERF203 - it has ended
            continue
    for pid in spaces.values():
        try:
            return Caller(path, cookie(f"/proc/{pid}/ns/net"), pid, len(spaces))
        except InvalidInput:  # noqa: PERF203 - the same
            continue
    return Caller(path, 0, None, 0)


def own_cgroup(root: str, proc: str = "/proc/self/cgroup") -> str | None:
    """This process's, as a path; None where it cannot be seen from here."""
    with open(proc, encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123 - short
        for line in lines:
            number, _, path = line.rstrip("\n").split(":", 2)
            if number == "0" and root and not path.startswith("/.."):
                return root + path.rstrip("/") if path != "/" else root
    return None


def _tasks(path: str) -> Iterator[int]:
    """Of the cgroup and all below it."""
    for directory, _, _ in os.walk(path):
        try:
            with open(f"{directory}/cgroup.procs", encoding="ascii") as file:  # noqa: PTH123
                yield from (pid for line in file if (pid := int(line)))
        except OSError:  # noqa: PERF203 - a threaded one, or it is gone
            continue
