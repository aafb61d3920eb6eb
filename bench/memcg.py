# SPDX-License-Identifier: Apache-2.0
"""What a process made the kernel allocate, as its memory cgroup was charged: v2's, or v1's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Group:
    """A memory cgroup; what its processes made stays charged to it after they ended."""

    def __init__(self, path: Path, v1: bool) -> None:
        self.path = path
        self._v1 = v1

    def enter(self) -> None:
        """Moves the calling process in."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def charged(self) -> int:
        """Bytes of the kernel's own that are charged to it now."""
        if self._v1:
            return int((self.path / "memory.kmem.usage_in_bytes").read_text())
        lines = (self.path / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("kernel "))


@contextmanager
def memory_group(bare: Path) -> Iterator[Group | None]:
    """The cgroup v2 that is given, if it counts memory; or one of v1's, removed at the end."""
    if _counts(bare):
        yield Group(bare, v1=False)
        return
    hierarchy = _v1_hierarchy()
    if hierarchy is None:
        yield None
        return
    path = hierarchy / bare.name
    path.mkdir()
    try:
        yield Group(path, v1=True)
    finally:
        path.rmdir()


def _counts(path: Path) -> bool:
    stat = path / "memory.stat"
    return stat.exists() and "\nkernel " in stat.read_text()  # since Linux 5.18


def _v1_hierarchy() -> Path | None:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            usage = Path(where) / "memory.kmem.usage_in_bytes"
            return Path(where) if usage.exists() else None
    return None
