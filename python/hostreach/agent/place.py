# SPDX-License-Identifier: Apache-2.0
"""Which cgroup this process is in, as the host's hierarchy names it, and one for it alone."""

from __future__ import annotations

import os
from contextlib import suppress
from errno import ENOENT
from pathlib import Path

from hostreach.cgroup import find_root


def own_cgroup(root: str | None = None) -> str | None:
    """Its path below the cgroup v2 root, or None if that is the root itself or not to be found.

    In a container with a cgroup namespace of its own, /proc/self/cgroup names no path of the host;
    then the hierarchy is searched for this process, which needs the host's process ids.
    """
    root = root or find_root()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            found = os.path.normpath(f"{root}/{path}")
            if found.startswith(f"{root}/") and _has_us(found):
                return found
    for directory, _, files in os.walk(root):
        if "cgroup.procs" in files and directory != root and _has_us(directory):
            return directory
    return None


def _has_us(cgroup: str) -> bool:
    try:
        return str(os.getpid()) in Path(cgroup, "cgroup.procs").read_text().split()
    except OSError:
        return False


_PREFIX = "hostreach-agent-"


class PlaceAlone:
    """A cgroup that has this process and no other, so that to exempt it exempts nobody else.

    A service of systemd has one. Who starts the agent in a shell shares the session's: then one is
    made below it, for as long as the process runs. Raises OSError where that cannot be.
    """

    def __init__(self) -> None:
        root = find_root()
        home = own_cgroup(root) or root
        if not _has_us(home):
            raise FileNotFoundError(ENOENT, "this process is in no cgroup that can be seen", home)
        self._home: str | None = None
        self.path = home
        if home == root or not _is_alone(home):
            self.path = f"{home}/{_PREFIX}{os.getpid()}"
            Path(self.path).mkdir(exist_ok=True)
            self._home = home
            _enter(self.path)

    def abandoned(self) -> list[str]:
        """Those beside it that processes made which were killed."""
        if self._home is None:
            return []
        inside = [each.path for each in os.scandir(self._home) if each.name.startswith(_PREFIX)]
        return [path for path in inside if _is_abandoned(path)]

    def leave(self) -> None:
        """Go back to where the process was, if it was elsewhere."""
        if self._home is not None:
            with suppress(OSError):
                _enter(self._home)
                Path(self.path).rmdir()


def _is_abandoned(cgroup: str) -> bool:
    """Nobody is there, nor is who made it about to enter; ids may be of another pid namespace."""
    try:
        empty = not Path(cgroup, "cgroup.procs").read_text()
    except OSError:
        return False
    return empty and not Path("/proc", cgroup.rpartition("-")[2]).exists()


def _is_alone(cgroup: str) -> bool:
    inside = [entry for entry in os.scandir(cgroup) if entry.is_dir(follow_symlinks=False)]
    pids = Path(cgroup, "cgroup.procs").read_text().split()
    return not inside and pids == [str(os.getpid())]


def _enter(cgroup: str) -> None:
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
