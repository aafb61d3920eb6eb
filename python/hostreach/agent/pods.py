# SPDX-License-Identifier: Apache-2.0
"""Exempts the cgroups of pods that ask for it, and takes back what it did, not what others did.

Which exemptions are the agent's stands in a file below /run, which lives as long as they do: until
the node is started anew. So an agent that comes back knows which of them it may take back.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from hostreach.errors import InvalidInput
from hostreach.exempt import Exemptions
from hostreach.podnames import POD
from hostreach.running import EXEMPT, open_ours, path_of
from hostreach.sources.kubernetes.intake import ExemptPod

log = logging.getLogger("hostreach.agent")

DEPTH = 5
"""Levels below the root at which pods are: kubelet.slice, kubelet-kubepods.slice, its QoS, pod."""
LATE = 30.0
"""Seconds after which a pod without a cgroup is told of."""
_NO_PODS = re.compile(r"system\.slice|user\.slice|.*\.(?:scope|service|mount|socket|swap)")


def file_of(pin: str) -> Path:
    """Where an instance's agent notes which exemptions are its own."""
    return Path(path_of(pin, EXEMPT))


def pod_cgroups(root: str) -> Iterator[tuple[str, str]]:
    """Each pod's uid and cgroup, as the kubelet's two drivers name them.

    That is kubepods/burstable/podUID, or kubepods.slice/kubepods-burstable.slice/
    kubepods-burstable-podUID.slice with _ for each - of the UID; a root of the kubelet's own
    (--cgroup-root) may stand before either.
    """
    level = [root]
    for _ in range(DEPTH):
        below: list[str] = []
        for parent in level:
            for name in _children(parent):
                if found := POD.fullmatch(name):
                    yield found[1].replace("_", "-"), f"{parent}/{name}"
                elif not _NO_PODS.fullmatch(name):
                    below.append(f"{parent}/{name}")
        level = below


def _children(directory: str) -> list[str]:
    with suppress(OSError), os.scandir(directory) as entries:  # one may be going just now
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []


class PodExemptions:
    """Not for two threads at once.

    Attributes:
        settled: uids of pods whose cgroup is exempt, and that cgroup.
    """

    def __init__(self, exemptions: Exemptions, root: str, file: Path) -> None:
        self.settled: dict[str, str] = {}
        self._exemptions = exemptions
        self._root = os.path.realpath(root)
        self._file = file
        self._wanted: dict[str, str] = {}
        self._since: dict[str, float] = {}
        self._ours = self._read()

    @property
    def missing(self) -> int:
        """How many pods are to be exempt whose cgroup is not there."""
        return len(self._wanted) - len(self.settled)

    def follow(self, pods: Iterable[ExemptPod], *, complete: bool) -> None:
        """These are to be exempt; others are not, if these are all (``complete``).

        Raises what the table raises; to be called again then.
        """
        self._wanted = {pod.uid: pod.key for pod in pods}
        for kept in (self.settled, self._since):
            for uid in kept.keys() - self._wanted.keys():
                del kept[uid]
        if complete:
            for uid in self._ours.keys() - self._wanted.keys():
                self._release(uid)

    def look(self) -> None:
        """Exempt those whose cgroup is there by now; raises what the table raises."""
        for uid, cgroup in [*self.settled.items()]:
            if not os.path.isdir(cgroup):  # noqa: PTH112 - as quick as can be
                del self.settled[uid]
        if not self.missing:
            return
        for uid, cgroup in pod_cgroups(self._root):
            if uid in self._wanted and uid not in self.settled:
                with suppress(InvalidInput):  # it has just gone
                    self._exempt(uid, cgroup)
        self._tell_of_late()

    def recheck(self) -> None:
        """Look at all of them anew: somebody may have taken back what is ours."""
        self.settled.clear()

    def _exempt(self, uid: str, cgroup: str) -> None:
        before = self._ours.get(uid)
        # Noted first: what is done and not noted would be taken for somebody else's.
        self._note(uid, cgroup)
        if self._exemptions.add(cgroup, if_missing=True):
            log.info("pod %s is exempt: %s", self._wanted[uid], cgroup)
        elif before is None:
            self._note(uid, None)
        self.settled[uid] = cgroup
        self._since.pop(uid, None)

    def _release(self, uid: str) -> None:
        cgroup = self._ours[uid]
        if self._exemptions.remove(cgroup, if_exists=True):
            log.info("no longer exempt: %s", cgroup)
        self._note(uid, None)

    def _tell_of_late(self) -> None:
        now = time.monotonic()
        for uid in self._wanted.keys() - self.settled.keys():
            if now >= self._since.setdefault(uid, now) + LATE:
                self._since[uid] = float("inf")  # once
                name = self._wanted[uid]
                log.warning("pod %s is not exempt: no cgroup of it below %s", name, self._root)

    # --- which are ours --------------------------------------------------------------------------

    def _read(self) -> dict[str, str]:
        """Those that are exempt still: all may have been purged, and others made since."""
        try:
            said = json.loads(self._file.read_text(encoding="utf-8"))
            there = {*self._exemptions}
            return {str(uid): cgroup for uid, cgroup in said.items() if cgroup in there}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("%s: %s; what stands exempt stays so", self._file, error)
            return {}

    def _note(self, uid: str, cgroup: str | None) -> None:
        before = {**self._ours}
        if cgroup is None:
            self._ours.pop(uid, None)
        else:
            self._ours[uid] = cgroup
        if self._ours == before:
            return
        new = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(mode=0o755, exist_ok=True)
            with open(new, "w", encoding="utf-8", opener=open_ours) as file:
                json.dump(self._ours, file)
            new.replace(self._file)
        except OSError as error:
            log.warning("%s: %s; after a restart what is exempt stays so", self._file, error)
