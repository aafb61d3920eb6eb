# SPDX-License-Identifier: Apache-2.0
"""Which pod a cgroup is of: the kubelet names cgroups and directories of logs. No API is asked."""

from __future__ import annotations

import os
import re
import time

LOGS = "/var/log/pods"
"""Where the kubelet has a directory NAMESPACE_NAME_UID for each pod of this node."""
LOOK_AGAIN = 5.0
"""Seconds before it is looked anew for a pod that is not there."""

POD = re.compile(r"(?:.*-)?pod([0-9A-Za-z_-]{8,64}?)(?:\.slice)?")
"""A pod's cgroup, by either driver: podUID, or kubepods-burstable-podUID.slice with _ for -."""


def uid_of(cgroup: str) -> str | None:
    """The uid of the pod that the cgroup at this path is of or below."""
    for step in cgroup.split("/"):
        if found := POD.fullmatch(step):
            return found[1].replace("_", "-")
    return None


class PodNames:
    """Names of this node's pods, by uid."""

    def __init__(self, logs: str = LOGS) -> None:
        self._logs = logs
        self._names: dict[str, str] = {}
        self._read = float("-inf")

    def name(self, uid: str) -> str | None:
        """``namespace/name``, or None if the kubelet has none of that uid."""
        if uid not in self._names and time.monotonic() - self._read > LOOK_AGAIN:
            self._read = time.monotonic()
            self._names = dict(self._list())
        return self._names.get(uid)

    def _list(self) -> list[tuple[str, str]]:
        try:
            entries = os.listdir(self._logs)  # noqa: PTH208 - of names alone, and as quick as can be
        except OSError:
            return []
        parts = (entry.split("_") for entry in entries)
        return [(part[2], f"{part[0]}/{part[1]}") for part in parts if len(part) == 3]
