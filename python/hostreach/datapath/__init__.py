# SPDX-License-Identifier: Apache-2.0
"""The kernel's side: the only part that imports the compiled `_core`."""

from __future__ import annotations

from .asking import AskedTable
from .attaching import AttachedTable, Description
from .kernel import (
    kernel_features,
    knows_host,
    mount_cgroup2,
    mounted_root,
    netns_cookie,
    socket_features,
    unmount_cgroup2,
)

__all__ = [
    "Description",
    "KernelTable",
    "kernel_features",
    "knows_host",
    "mount_cgroup2",
    "mounted_root",
    "netns_cookie",
    "socket_features",
    "unmount_cgroup2",
]


class KernelTable(AskedTable, AttachedTable):
    """The pinned tables of one instance, and its programs; opened when they are first needed."""
