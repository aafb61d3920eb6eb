# SPDX-License-Identifier: Apache-2.0
"""The services of many files: each file counts whole, or stays what it was when it was right.

Nothing here knows of tables. What a look changes is what the files that changed say now and did
not say before.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from hostreach.errors import InvalidInput
from hostreach.models import Frontend

from .file import load_entries
from .reader import Entry
from .tree import Seen, Stamp, Tree
from .watching import Heard

log = logging.getLogger("hostreach.agent")

Entries = dict[Frontend, Entry]
Changes = dict[Frontend, Entry | None]
"""What each service is now; None: no file has it."""


@dataclass
class _File:
    """One of them.

    Attributes:
        stamp: of what was read last, right or wrong.
        good: what counts.
        ever: whether it was right once.
    """

    stamp: Stamp | None = None
    good: Entries = field(default_factory=dict)
    ever: bool = False


class Files:
    """Not for two threads at once.

    Attributes:
        entries: what counts, of all files together.
        tree: which files there are; hears of changes.
        empty: directories that were named and in which no file was ever seen.
        unsettled: whether some file is still being written, so that a look is due before long.
    """

    def __init__(self, paths: Sequence[str], owner: str) -> None:
        self.tree = Tree(paths)
        self.entries: Entries = {}
        self.unsettled = False
        self._owner = owner
        self._files: dict[str, _File] = {}
        # Of all files these are few: what a look costs must not depend on how many there are.
        self._wanted: dict[str, Entries] = {}  # what files say that does not count yet
        self._wrong: dict[str, str] = {}  # why it does not
        self._unknown: set[str] = set()  # files that were never right
        self._holders: dict[Frontend, str] = {}
        self._missing: dict[str, str] = {}
        self._never_seen = {*self.tree.paths}
        self.empty: set[str] = set()
        self._waiting: set[str] = set()

    @property
    def count(self) -> int:
        """Files that there are."""
        return len(self._files)

    @property
    def problems(self) -> list[str]:
        """A line for each file or path that could not be used as it is, sorted."""
        missing = [f"{path}: {why}" for path, why in self._missing.items()]
        return sorted([*missing, *self._wrong.values()])

    @property
    def whole(self) -> bool:
        """Whether all was right once: only then is what no file has known to be wanted by none.

        An agent that starts beside a file that is wrong does not know what it said before; nor
        what was in a directory without any, whose disk may not be mounted yet.
        """
        return not (self._never_seen or self._waiting or self._unknown)

    def look(self, heard: Heard) -> Changes:
        """Take in what was heard of; what that changes."""
        heard.paths |= self._waiting
        self._waiting.clear()
        look = self.tree.look(heard)
        self._missing = look.missing
        self.empty = look.empty & self._never_seen
        self._never_seen &= look.missing.keys() | look.empty
        for path, seen in look.files.items():
            self._read(path, seen)
        gone = look.gone & self._files.keys()
        for path in gone:
            self._wanted[path] = {}
            self._wrong.pop(path, None)
        changes = self._settle()
        for path in gone:
            del self._files[path]
        self.unsettled = bool(self._waiting)
        return changes

    def close(self) -> None:
        self.tree.close()

    def _read(self, path: str, seen: Seen) -> None:
        if path not in self._files:
            self._files[path] = _File()
            self._unknown.add(path)
        file = self._files[path]
        if seen.stamp is not None and seen.stamp == file.stamp:
            return
        if not seen.settled:
            self._waiting.add(path)
            return
        file.stamp = seen.stamp
        self._wanted.pop(path, None)
        try:
            if seen.stamp is None:
                raise InvalidInput(seen.problem, object=path)
            entries = load_entries(path, owner=self._owner, alone=True)
        except InvalidInput as error:
            self._refuse(path, str(error))
        else:
            self._wanted[path] = {entry.service.frontend: entry for entry in entries}

    def _refuse(self, path: str, why: str) -> None:
        if self._wrong.get(path) != why:
            ever = self._files[path].ever
            stays = "what it said before still counts" if ever else "nothing of it is used"
            log.error("%s; %s", why, stays)
        self._wrong[path] = why

    def _settle(self) -> Changes:
        """Let count what the files say, but for those that claim what another one has."""
        new = dict(sorted(self._wanted.items()))
        while clashing := self._clashing(new):
            for path, why in clashing.items():
                self._refuse(path, why)
                del new[path]
        before: Changes = {}
        for path, wanted in new.items():
            file = self._files[path]
            for frontend in file.good.keys() - wanted.keys():
                if self._holders.get(frontend) == path:
                    del self._holders[frontend]
                    before.setdefault(frontend, self.entries.pop(frontend))
            for frontend, entry in wanted.items():
                self._holders[frontend] = path
                before.setdefault(frontend, self.entries.get(frontend))
                self.entries[frontend] = entry
            if self._wrong.pop(path, None) is not None:
                log.info("%s: is right again", path)
            file.good, file.ever = wanted, True
            self._unknown.discard(path)
            del self._wanted[path]
        return {
            frontend: self.entries.get(frontend)
            for frontend, entry in before.items()
            if self.entries.get(frontend) != entry
        }

    def _clashing(self, new: dict[str, Entries]) -> dict[str, str]:
        """Files that may not have all they want, and why: who has a service keeps it."""
        found: dict[str, str] = {}
        taken: dict[Frontend, str] = {}
        for path, wanted in new.items():
            for frontend in wanted:
                holder = self._holders.get(frontend)
                if holder is None or (holder in new and frontend not in new[holder]):
                    holder = taken.setdefault(frontend, path)
                if holder != path:
                    found[path] = f"{path}: {frontend} is in {holder} too"
                    break
        return found
