# SPDX-License-Identifier: Apache-2.0
"""Which cgroup this process is in, as the host's hierarchy names it."""

from __future__ import annotations

import os
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
