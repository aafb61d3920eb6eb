# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes agent: when what its source knows is written, and what goes with a cluster."""

from __future__ import annotations

import logging
import time

from hostreach.cgroup import find_root
from hostreach.errors import AbiMismatch, HostreachError, NotFound
from hostreach.node import Node
from hostreach.plain import PlainFrontend
from hostreach.running import KUBERNETES
from hostreach.sources.kubernetes.services import OWNER
from hostreach.sources.kubernetes.source import KubernetesSource

from .apart import Apart
from .health import HealthPorts
from .keeper import TICK, Keeper
from .metrics import programming
from .pods import PodExemptions, file_of
from .samples import cluster_samples
from .settings import Settings, primary_networks

log = logging.getLogger("hostreach.agent")

PODS = 0.1
"""How often the cgroup of a pod that has just come is looked for."""


class Agent(Keeper):
    """One instance, one cluster."""

    source_name = KUBERNETES
    waits_for = "the API server"
    follows = "the cluster"

    def __init__(self, node: Node, source: KubernetesSource, settings: Settings) -> None:
        super().__init__(node, OWNER, settings)
        self.source = source
        self.settings = settings
        self.health = HealthPorts(self._web, self._is_healthy)
        self._programming = programming(self.metrics.registry)
        self._apart = Apart(node.exempt)
        self.pods: PodExemptions | None = None
        self._pods_at = 0.0
        self._networks_before: tuple[str, ...] | None = ()

    # --- beginning and end -----------------------------------------------------------------------

    def _begin(self) -> None:
        try:
            self._networks_before = self._node.networks()
        except NotFound:
            pass
        except AbiMismatch:  # unknown until `attach` has brought them here: rather all than none
            self._networks_before = None
        self._exempt()
        self.source.start()  # it reads while the programs are loaded

    def _exempt(self, *, at_once: bool = False) -> None:
        """First of all: nothing of ours may stand between us and the API server.

        What the tables say of it may be from long ago, and nobody else would correct it.
        """
        self._apart.stand(
            "where the API server's address is a service's, it is asked where the tables lead",
            at_once=at_once,
        )

    def _attached(self) -> None:
        """Only pods below our root see any service."""
        self._exempt(at_once=True)
        if self.settings.pod_info:
            root = self.settings.cgroup or find_root()
            self.pods = PodExemptions(self._node.exempt, root, file_of(self._node.pin))

    def _close(self) -> None:
        self.source.close(0.5)
        self._apart.end()

    def _metrics_of_source(self) -> None:
        self.metrics.ask(lambda: cluster_samples(self))

    # --- the loop --------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        waits = self._due - now if self.source.state.pending and self._complete else TICK
        if self._admits:
            waits = min(waits, self._admit_at - now)
        if self.pods and self.pods.missing:
            waits = min(waits, self._pods_at - now)
        self.source.poll(min(TICK, waits))
        now = time.monotonic()
        if self._admits and now >= self._admit_at:
            self._admit()
        if self.pods and (self.source.pods_changed or now >= self._pods_at):
            self._exempt_pods(self.pods)
        if self.source.freshness.synced:
            if not self._complete:
                if now >= self._due:
                    self._first_sync()
            elif self.source.state.pending and now >= self._due and self._sync():
                self._due = time.monotonic() + self._window
        if now - self._ticked >= TICK or not self._complete:
            self._exempt()
            if self.pods:  # theirs go with no sync
                self._log_problems()
            self._tick(now)

    def _first_sync(self) -> None:
        began = time.monotonic()
        if not self._sync() or (stale := self._prune(self._wanted)) is None:
            return
        services, slices = self.source.state.counts
        log.info(
            "in step with %d services and %d endpoint slices after %.2f s; %d stale ones removed",
            services,
            slices,
            time.monotonic() - began,
            stale,
        )
        self._completed()

    def _sync(self) -> bool:
        """Write what has changed; False if it could not be, and is owed."""
        began = time.monotonic()
        if not self._write(self.source.state.take()):
            return False
        now = time.time()
        for changed in self.source.state.take_changed():
            if self._complete:
                self._programming.observe(max(0.0, now - changed))
        self.metrics.sync.observe(time.monotonic() - began)
        if self.settings.health_check_ports:
            self.health.follow(self.source.state.health)
        self._log_problems()
        return True

    def _wanted(self, frontend: PlainFrontend) -> bool:
        return self.source.state.owner_of(frontend) is not None

    def _log_problems(self) -> None:
        for line in self.source.problems_to_log():
            log.warning("%s", line)

    def _again(self) -> None:
        self.health.again()

    def _recheck(self) -> None:
        if self.pods:
            self.pods.recheck()
        self.source.state.touch_all()
        if self._sync():
            self._prune(self._wanted)

    def _idle(self) -> bool:
        return self.source.freshness.connected and not self._waits()

    def _waits(self) -> bool:
        return bool(self.source.state.pending or self.source.queued)

    def _ranged(self) -> bool:
        return bool(self.source.state.ranged)

    # --- this node -------------------------------------------------------------------------------

    def _exempt_pods(self, pods: PodExemptions) -> None:
        try:
            self.source.pods_changed = False
            pods.follow(self.source.exempt_pods.values(), complete=self.source.pods_known)
            pods.look()
            self._trouble.pop("exempt pods", None)
            self._pods_at = time.monotonic() + (PODS if pods.missing else TICK)
        except HostreachError as error:
            self._complain("exempt pods", error)
            self._pods_at = time.monotonic() + 1.0

    def _networks(self) -> tuple[str, ...] | None:
        chosen = self.settings.node_port_addresses
        if chosen == "all":
            return None
        if chosen == "primary":
            known = self.source.state.rules.host_addresses
            # Until the node was read, those of the agent before: a restart is to change nothing.
            return primary_networks(known) if known else self._networks_before
        return chosen

    def _is_healthy(self) -> bool:
        """As kube-proxy would say it of itself to a load balancer.

        That the API server is away is no reason: every node would say so at once, though all of
        them serve as well as they did.
        """
        return self._complete and self._is_alive() and not self._is_late()
