# SPDX-License-Identifier: Apache-2.0
"""Hears of changes below directories that come and go, by inotify(7).

Directories are watched, never files: a file that is replaced by rename(2) is another file, and one
that is not there yet cannot be watched at all.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from errno import ENOSPC

from inotify_simple import INotify, flags

log = logging.getLogger("hostreach.agent")

OPEN_MAX = 5.0
"""Seconds after its last write(2) that a file which was not closed is waited for."""

_MASK = (
    flags.MODIFY
    | flags.ATTRIB
    | flags.CLOSE_WRITE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CREATE
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)
_DIRECTORY = flags.DELETE_SELF | flags.MOVE_SELF | flags.IGNORED | flags.UNMOUNT
_WHOLE = flags.CLOSE_WRITE | flags.MOVED_TO
"""After these a file has all that it is to have."""

Directories = Mapping[str, frozenset[str] | None]
"""What of each directory matters: some names, or all (None)."""


@dataclass
class Heard:
    """What has happened since the last time.

    Attributes:
        paths: what has changed, come or gone, by directory and name.
        whole: those of them that were written to their end, or renamed to this name.
        everything: a directory came or went, or too much happened: look at all of it.
    """

    paths: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    everything: bool = False

    def __bool__(self) -> bool:
        return self.everything or bool(self.paths)


class Watching:
    """Not for two threads at once; `fileno` is readable when there is something to hear."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._watches: dict[int, dict[str, frozenset[str] | None]] = {}
        self._unclosed: dict[str, float] = {}
        self._deaf = False

    def fileno(self) -> int:
        return int(self._inotify.fileno())

    def follow(self, directories: Directories) -> None:
        """Watch these and no others, as far as they are there."""
        found: dict[int, dict[str, frozenset[str] | None]] = {}
        deaf = False
        for path, names in directories.items():
            try:
                # The same directory gives the same watch, a new one by the same name another.
                found.setdefault(self._inotify.add_watch(path, _MASK), {})[path] = names
            # Gone, or not to be looked into: then it tells nothing.
            except OSError as error:  # noqa: PERF203 - of a few
                deaf |= error.errno == ENOSPC
        if deaf and not self._deaf:
            log.warning("fs.inotify.max_user_watches is too low: changes are seen later")
        self._deaf = deaf
        for watch in self._watches.keys() - found.keys():
            with suppress(OSError):  # it went with its directory
                self._inotify.rm_watch(watch)
        self._watches = found

    def hear(self) -> Heard:
        """What has happened; does not wait."""
        heard = Heard()
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                heard.everything = True
            watched = self._watches.get(event.wd)
            if watched is None:
                continue
            if event.mask & _DIRECTORY:
                heard.everything = True
            for directory, names in watched.items():
                if event.name and (names is None or event.name in names):
                    self._hear(heard, os.path.join(directory, event.name), event.mask)
        return heard

    def _hear(self, heard: Heard, path: str, mask: int) -> None:
        if mask & flags.MODIFY:
            self._unclosed[path] = time.monotonic()
            return
        self._unclosed.pop(path, None)
        heard.paths.add(path)
        if mask & _WHOLE:
            heard.whole.add(path)
        heard.everything |= bool(mask & flags.ISDIR)

    def is_being_written(self, path: str) -> bool:
        """Whether somebody who wrote there a moment ago has yet to close it."""
        written = self._unclosed.get(path)
        if written is not None and time.monotonic() - written > OPEN_MAX:
            del self._unclosed[path]
            return False
        return written is not None

    def close(self) -> None:
        self._inotify.close()


def steps_to(path: str, into: dict[str, set[str]]) -> str | None:
    """Note in ``into`` each directory on the way to ``path``, with the name looked up there.

    Symbolic links are followed, so that one which is turned elsewhere is heard of, as Kubernetes
    does with the files of a ConfigMap. What the path comes to, or None if it leads nowhere.
    """
    at, left, links = "/", [step for step in path.split("/") if step][::-1], 0
    while left:
        step = left.pop()
        if step == ".":
            continue
        if step == "..":
            at = os.path.dirname(at)
            continue
        into.setdefault(at, set()).add(step)
        here = os.path.join(at, step)
        try:
            target = os.readlink(here)
        except OSError:
            if not os.path.lexists(here):
                return None
            at = here
            continue
        links += 1
        if links > 40:  # as the kernel has it: ELOOP
            return None
        at = "/" if target.startswith("/") else at
        left += [step for step in target.split("/") if step][::-1]
    return at


def merge(steps: Mapping[str, Collection[str]], listed: Collection[str]) -> Directories:
    """Directories on the way, and those of which everything matters."""
    found: dict[str, frozenset[str] | None] = {
        directory: frozenset(names) for directory, names in steps.items()
    }
    found.update(dict.fromkeys(listed))
    return found
