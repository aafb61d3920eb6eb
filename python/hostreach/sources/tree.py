# SPDX-License-Identifier: Apache-2.0
"""Which files of services there are at some paths, and whether they can be read yet."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .watching import Directories, Heard, Watching, merge, steps_to

SETTLED = 0.5
"""Seconds: what was not heard of is read once its file has been left alone for so long."""
_TRIES = 5
_SUFFIXES = (".yaml", ".yml", ".json")
_UNMOUNTED = "its file system was unmounted"


class Stamp(NamedTuple):
    """What tells one state of a file from another; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


class Seen(NamedTuple):
    """A file at one moment. ``stamp`` is None where it is no file to be read: ``problem`` says."""

    stamp: Stamp | None
    settled: bool
    problem: str = ""


@dataclass
class Look:
    """What there is.

    Attributes:
        files: by path; those that were looked at.
        gone: paths that a whole look did not find, in directories that are there.
        missing: paths that were named and cannot be looked at, and why.
        empty: directories that were named and in which no file was ever seen.
    """

    files: dict[str, Seen] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    empty: set[str] = field(default_factory=set)


def is_services_file(name: str) -> bool:
    """By its name in a directory: what editors leave beside a file is none."""
    return name.endswith(_SUFFIXES) and not name.startswith((".", "#"))


def mount_of(directory: int) -> int:
    """The mount that an open directory is in: a number that the kernel tells in fdinfo.

    A device says less: a bind mount has that of what it shows.
    """
    with open(f"/proc/self/fdinfo/{directory}", encoding="ascii") as told:
        for line in told:
            name, _, value = line.partition(":")
            if name == "mnt_id":
                return int(value)
    return 0


class Tree:
    """Files and directories of files, which may come later.

    What is named must be there: if it is not, what was in it stays as it was. What is in a
    directory that is there may come and go.

    Attributes:
        paths: what is named, absolute.
        watching: hears of changes to it.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.watching = Watching()
        self.paths = tuple(dict.fromkeys(os.path.abspath(path) for path in paths))
        self._known: dict[str, str] = {}
        self._links: dict[str, str] = {}
        self._directories: set[str] = set()
        self._steps: set[str] = set()
        self._missing: dict[str, str] = {}
        self._mounts: dict[str, int] = {}  # of directories: the mount that their files are in
        self._empty: set[str] = set()
        self._seen: set[str] = set()  # directories that had a file once

    def look(self, heard: Heard) -> Look:
        """At what was heard of, or at everything."""
        if heard.everything or not all(self._is_plain(path) for path in heard.paths):
            return self._look_at_all(heard)
        look = Look(missing=self._missing, empty=self._empty)
        for path in heard.paths:
            if path in self._known or is_services_file(os.path.basename(path)):
                self._look_at(path, self._known.get(path, os.path.dirname(path)), heard, look)
        return look

    def close(self) -> None:
        self.watching.close()

    def _is_plain(self, path: str) -> bool:
        """Whether nothing but that one file can have changed."""
        directory, name = os.path.split(path)
        if directory not in self._directories or path in self._links or path in self._steps:
            return False
        return not is_services_file(name) or not os.path.islink(path)

    def _look_at_all(self, heard: Heard) -> Look:
        known = {*self._known}
        directories = self._follow()
        for _ in range(_TRIES):
            look = self._scan(heard)
            before, directories = directories, self._follow()
            if before == directories:  # nothing has moved meanwhile
                break
        look.gone |= known - self._known.keys()  # an earlier one of these scans missed it first
        self._missing, self._empty = look.missing, look.empty
        return look

    def _follow(self) -> Directories:
        """Watch all that leads to a file. First, then look: what happens between is heard."""
        steps: dict[str, set[str]] = {}
        self._directories.clear()
        self._links.clear()
        for path in self.paths:
            real = steps_to(path, steps)
            if real is None:
                continue
            if not os.path.isdir(real):
                self._links[path] = real
                continue
            self._directories.add(path)
            try:
                with os.scandir(path) as entries:
                    links = [e.path for e in entries if e.is_symlink() and is_services_file(e.name)]
            except OSError:
                continue
            for link in links:
                self._links[link] = steps_to(link, steps) or link
        self._steps = {os.path.join(at, name) for at, names in steps.items() for name in names}
        found = merge(steps, self._directories)
        self.watching.follow(found)
        return found

    def _scan(self, heard: Heard) -> Look:
        look = Look()
        known: dict[str, str] = {}
        for path in self.paths:
            try:
                names = self._names(path, look)
                known.update((name, path) for name in names if name not in known)
            except OSError as error:  # noqa: PERF203 - of a few paths
                look.missing[path] = f"cannot be read: {(error.strerror or str(error)).lower()}"
                # What was there stays known, so that it is not taken for gone.
                kept = {file: root for file, root in self._known.items() if root == path}
                known.update({file: root for file, root in kept.items() if file not in known})
        look.gone = self._known.keys() - known.keys()
        self._known = known
        for path, root in known.items():
            if root not in look.missing:
                self._look_at(path, root, heard, look)
        return look

    def _names(self, path: str, look: Look) -> list[str]:
        """The files at a path that is named. Raises OSError."""
        if not stat.S_ISDIR(os.stat(path).st_mode):
            return [path]
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount = mount_of(directory)
            with os.scandir(directory) as entries:
                found = sorted(e.name for e in entries if is_services_file(e.name))
        finally:
            os.close(directory)
        had = path in self._known.values()
        if not found and had and self._mounts.get(path, mount) != mount:
            raise OSError(_UNMOUNTED)
        self._mounts[path] = mount
        if not found and path not in self._seen:
            look.empty.add(path)
        return [os.path.join(path, name) for name in found]

    def _is_unmounted(self, root: str) -> bool:
        """Whether a directory is another file system's than when its files were found there."""
        if root not in self._mounts:
            return False
        try:
            directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return mount_of(directory) != self._mounts[root]
            finally:
                os.close(directory)
        except OSError:
            return True  # a whole look says why

    def _look_at(self, path: str, root: str, heard: Heard, look: Look) -> None:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            if path == root:
                look.missing[path] = "cannot be read: no such file or directory"
                self._known.setdefault(path, root)
            elif os.path.islink(path):
                self._known[path] = root
                look.files[path] = Seen(None, True, "is a link that leads nowhere")
            elif self._is_unmounted(root):
                look.missing[root] = f"cannot be read: {_UNMOUNTED}"
            else:
                self._known.pop(path, None)
                look.gone.add(path)
            return
        except OSError as error:
            self._known[path] = root
            why = (error.strerror or str(error)).lower()
            look.files[path] = Seen(None, True, f"cannot be read: {why}")
            return
        self._known[path] = root
        self._seen.add(root)
        look.empty.discard(root)
        look.missing.pop(path, None)
        if not stat.S_ISREG(found.st_mode):
            look.files[path] = Seen(None, True, "is no regular file")
            return
        stamp = Stamp(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )
        look.files[path] = Seen(stamp, self._is_settled(path, stamp, heard))

    def _is_settled(self, path: str, stamp: Stamp, heard: Heard) -> bool:
        """Nobody is still writing it, as far as one can tell."""
        real = self._links.get(path, path)
        if self.watching.is_being_written(path) or self.watching.is_being_written(real):
            return False
        if path in heard.whole or real in heard.whole:
            return True
        age = time.time() - max(stamp.modified, stamp.changed) / 1e9
        return abs(age) > SETTLED  # a clock that was set makes nothing wait for long
