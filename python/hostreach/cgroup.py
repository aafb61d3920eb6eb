# SPDX-License-Identifier: Apache-2.0
"""Where cgroup v2 is mounted, also on hosts that have v1 beside it."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import Refused

MOUNTINFO = "/proc/self/mountinfo"
OWN_MOUNT = "/run/hostreach/cgroupv2"
"""Where `attach` mounts cgroup v2 if nobody did, as on nodes with cgroup v1 alone."""


def find_root(mountinfo: str = MOUNTINFO) -> str:
    """The mount point of the cgroup v2 root.

    On a hybrid host that is commonly /sys/fs/cgroup/unified. A mount that shows a subtree only,
    as in a container with its own cgroup namespace, is taken when there is no better one; `status`
    then shows how far it reaches. Raises `Refused` when none is mounted.
    """
    best: str | None = None
    for path, kind, root, _ in find_mounts(mountinfo):
        if kind != "cgroup2":
            continue
        if root == "/":
            return path
        best = best or path
    if best is None:
        raise Refused(
            f"no cgroup v2 is mounted; `attach` mounts it at {OWN_MOUNT}", object="cgroup"
        )
    return best


def find_mounts(mountinfo: str = MOUNTINFO) -> Iterator[tuple[str, str, str, str]]:
    """Where each is, its kind, the part of the file system that it shows, and its own options."""
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123 - starts quicker
        for line in lines:
            fields, _, described = line.rstrip("\n").partition(" - ")
            root, path = fields.split(" ")[3:5]
            kind, _, options = described.split(" ", 2)
            yield _unescape(path), kind, _unescape(root), options


def _unescape(path: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    for code, character in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        path = path.replace("\\" + code, character)
    return path
