# SPDX-License-Identifier: Apache-2.0
"""A source that follows a server, and what it has learned."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

from kube.apiserver import ApiServer
from kube.objects import Json

from hostreach.plain import PlainFrontend, PlainService
from hostreach.sources.kubernetes.client import ApiClient
from hostreach.sources.kubernetes.config import Connection
from hostreach.sources.kubernetes.patience import Patience
from hostreach.sources.kubernetes.services import Rules
from hostreach.sources.kubernetes.source import KubernetesSource

Follow = Callable[..., "Follower"]
QUICK = Patience(first=0.02, longest=0.2)
SECONDS = 30.0

NODE: Json = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-a", "labels": {"topology.kubernetes.io/zone": "zone-a"}},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}


class Follower:
    """A source, and the table that somebody keeps by what it says."""

    def __init__(
        self,
        server: ApiServer,
        *,
        idle: float = 5.0,
        patience: Patience = QUICK,
        pods: bool = False,
    ) -> None:
        connection = Connection(server.url, ssl.create_default_context(), None)
        self.source = KubernetesSource(
            ApiClient(connection, idle=idle), "node-a", Rules(), patience, pods=pods
        )
        self.table: dict[PlainFrontend, PlainService] = {}
        self.removed: list[PlainFrontend] = []
        self.source.start()

    def sync(self) -> None:
        self.source.poll(0.02)
        if not self.source.freshness.synced:
            return
        for put, remove in self.source.state.take():
            for entry in put:
                self.table[entry[:3]] = entry
            for frontend in remove:
                self.table.pop(frontend)
                self.removed.append(frontend)

    def until(self, condition: Callable[[], object], what: str = "it is so") -> None:
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"waited for: {what}; there is {self.shown()}"
            self.sync()

    def shows(self, expected: dict[str, str]) -> None:
        self.until(lambda: self.shown() == expected, f"{expected}")

    def shown(self) -> dict[str, str]:
        """Each address with its backends, in short."""
        return {at[0]: " ".join(b[0] for b in entry[6]) for at, entry in self.table.items()}

    def restarts(self, kind: Any = "Service") -> dict[str, int]:
        return dict(self.source.watchers[kind].state.restarts)

    def counted(self, why: str) -> int:
        return sum(watcher.state.restarts[why] for watcher in self.source.watchers.values())
