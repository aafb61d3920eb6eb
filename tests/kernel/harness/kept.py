# SPDX-License-Identifier: Apache-2.0
"""An instance that stays attached from test to test: emulated, the verifier takes seconds.

A test that changes more than services, or fails, is the last to have it. Each has a network
namespace and processes of its own as ever.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import cgroup
from .box import Place
from .bpf import attached
from .rawmap import MMAPABLE, RawMap
from .timing import wait_until

if TYPE_CHECKING:
    from hostreach.node import Node

KEEPS = os.environ.get("HOSTREACH_KEPT_INSTANCE") == "1"
"""Wished for by tests/vm. It stays the exception: elsewhere each test has its own instance."""


class Kept:
    """At most one."""

    def __init__(self) -> None:
        self._place: Place | None = None
        self._programs: dict[str, int] = {}
        self._pinned: set[Path] = set()

    def borrow(self) -> Place:
        if self._place is None:
            self._place = Place()
        return self._place

    def give_back(self, *, failed: bool) -> None:
        """Keeps it if it can be made as it was."""
        place = self._place
        if place is None:
            return
        if failed or not self._restored(place):
            self.close()

    def close(self) -> None:
        if self._place is not None:
            self._place.close()
        self._place, self._programs = None, {}

    def _restored(self, place: Place) -> bool:
        import hostreach

        programs, path = attached(place.cgroup.path), place.cgroup.path
        pinned = set(place.pin.rglob("*"))
        if not self._programs:
            self._programs, self._pinned = programs, pinned
        if not programs or programs != self._programs or pinned != self._pinned:
            return False
        if any(each.is_dir() for each in path.iterdir()):
            return False
        wait_until(lambda: cgroup.empty(path), "the test's processes gone", seconds=10)
        with hostreach.open(str(place.pin)) as node:
            return _emptied(node) and not _is_held(place.pin / "holders")


def _is_held(holders: Path) -> bool:
    """Is any place a socket's, or marked?"""
    if not holders.exists():
        return False
    with RawMap.pinned(holders) as every:
        if not every.shape.flags & MMAPABLE:
            return False
        with every.mapped() as words:
            return any(words[:])


def _emptied(node: Node) -> bool:
    node.services.apply([], prune=True)
    return not list(node.exempt)
