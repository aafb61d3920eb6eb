# SPDX-License-Identifier: Apache-2.0
"""Child cgroups of the cgroup v2 root, on pure and on hybrid hosts."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from .timing import wait_until


def v2_root() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, fstype, *_ = line.split()
        if fstype == "cgroup2":
            return Path(where)
    return None


class Cgroup:
    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path

    def enter(self) -> None:
        """Moves the calling process in: sockets made from now on belong to this cgroup."""
        (self.path / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        remove(self.path)


def empty(path: Path) -> bool:
    """Kills whatever still runs in the cgroup; False: something did."""
    try:
        pids = (path / "cgroup.procs").read_text().split()
    except FileNotFoundError:
        return True
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return not pids


def remove(path: Path) -> None:
    """Kills whatever still runs in the cgroup or below it and removes them all."""
    for child in [each for each in path.glob("*") if each.is_dir()]:
        remove(child)

    def gone() -> bool:
        empty(path)
        with contextlib.suppress(FileNotFoundError, OSError):
            path.rmdir()
        return not path.exists()

    wait_until(gone, f"{path} empty and removed", seconds=10)
