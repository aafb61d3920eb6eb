# SPDX-License-Identifier: Apache-2.0
"""What this kernel and this host can do."""

from __future__ import annotations

from errno import ENOENT
from typing import TYPE_CHECKING

from hostreach import _core
from hostreach.cgroup import find_root
from hostreach.errors import InvalidInput, Refused

if TYPE_CHECKING:
    from hostreach.explain import Lost
    from hostreach.plain import PlainSubtree

NO_CGROUPS = "this kernel does not tell programs which cgroup a task is in (Linux 5.7 does)"


def kernel_features() -> dict[str, bool]:
    """What `attach` looks at, by the names that HOSTREACH_WITHOUT takes.

    Raises `PermissionDenied`, as `socket_features` does.
    """
    return {**_core.features(), "host_netns": _core.netns_cookie(None) != 0}


def socket_features() -> dict[str, bool]:
    """What ending and counting sockets look at, the same; slower."""
    return _core.socket_features()


def netns_cookie(path: str | None) -> int:
    """Of the network namespace there, or of our own; 0 where the kernel does not tell."""
    return _core.netns_cookie(path)


def programs_know(feature: str) -> bool:
    """The programs for kernels without socket storage know nothing of those who call."""
    has = _core.features()
    return has[feature] and has["global_data"] and has["sk_storage"]


def knows_host() -> bool:
    """Whether programs can tell the host's network namespace from others."""
    return programs_know("netns_cookie") and _core.netns_cookie(None) != 0


def cgroup_of(path: str) -> tuple[int, int]:
    """Id and depth; 0 for a cgroup that is gone, which the table accepts where it knew it.

    Gone are all where no cgroup v2 is mounted.
    """
    if not (root := mounted_root()):
        return 0, 0
    try:
        return _core.cgroup(path, root)
    except InvalidInput as error:
        if error.errno == ENOENT:
            return 0, 0
        raise


def cgroup_lost(known: PlainSubtree) -> Lost | None:
    """Whether the cgroup that a table knows is not there, or made anew: then nobody is served."""
    path, number, _ = known
    try:
        now, _ = cgroup_of(path)
    except InvalidInput:  # it is no cgroup
        now = 0
    if now == number:
        return None
    return "anew" if now else "gone"


def mounted_root() -> str:
    """Where cgroup v2 is mounted, or "": then nothing is attached either."""
    try:
        return find_root()
    except Refused:
        return ""


def mount_cgroup2(path: str) -> None:
    """On a directory that is there."""
    _core.mount_cgroup2(path)


def unmount_cgroup2(path: str) -> None:
    """What `mount_cgroup2` mounted."""
    _core.unmount_cgroup2(path)
