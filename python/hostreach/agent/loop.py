# SPDX-License-Identifier: Apache-2.0
"""The agent: when to write, and all that has to be done now and then."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable

from hostreach import running
from hostreach.cgroup import find_root
from hostreach.errors import HostreachError
from hostreach.node import Node
from hostreach.node import open as open_node
from hostreach.options import CAPACITY_MAX, Capacities
from hostreach.sources.kubernetes.services import OWNER
from hostreach.sources.kubernetes.source import KubernetesSource

from .addresses import AddressWatch
from .health import HealthPorts
from .metrics import Metrics
from .notify import Notifier
from .place import own_cgroup
from .pods import PodExemptions, file_of
from .programmer import Programmer
from .samples import agent_samples, table_samples
from .settings import Settings, primary_networks
from .web import Answer, WebServer

log = logging.getLogger("hostreach.agent")

SOURCE = "kubernetes"
TICK = 0.5
"""Seconds: how soon a signal, an address or the watchdog is seen to."""
ADMIT = 0.9
"""How often clients are looked for that may use services with source ranges: within a second."""
PODS = 0.1
"""How often the cgroup of a pod that has just come is looked for."""
RETRY = 5.0
"""How often what could not be written is tried again."""
RECHECK = 600.0
"""How often the whole table is compared with what it should hold."""
STALE = 300.0
"""After so long without a word from the API server the agent calls itself unhealthy."""
STUCK = 30.0


class Agent:
    """One instance, one source. `run` is its life; all else is for others to read.

    Attributes:
        synced_at: when the tables were last known to be in step, by time.monotonic(), or None.
    """

    def __init__(self, node: Node, source: KubernetesSource, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self.programmer = Programmer(node.plain, OWNER, self._grow)
        self.metrics = Metrics()
        self.synced_at: float | None = None
        self._node = node
        self._web = WebServer()
        self.health = HealthPorts(self._web, self._is_healthy)
        self._notifier = Notifier()
        self._addresses = AddressWatch()
        self._followed: tuple[str, ...] | None = None
        self._ticked = time.monotonic()
        self._complete = False
        self._window = settings.window_ms / 1000
        self._due = self._retry_at = self._recheck_at = self._noted_at = 0.0
        self._admit_at = 0.0
        self._admits = True
        self.pods: PodExemptions | None = None
        self._pods_at = 0.0
        self._trouble: dict[str, str] = {}

    def run(self, stopped: Callable[[], bool]) -> None:
        """Until ``stopped``. Programs and tables stay, unless the settings say otherwise."""
        # Millions of small objects come and stay, with no cycle among them.
        gc.set_threshold(100_000, 20, 100)
        try:
            self._serve()
            self._exempt()
            self.source.start()  # it reads while the programs are loaded
            self._notifier.waiting("loading the programs")
            self._attach()
            self._follow_pods()
            while not stopped():
                self._turn()
        finally:
            self._end()

    # --- beginning and end -----------------------------------------------------------------------

    def _exempt(self) -> None:
        """First of all: nothing of ours may stand between us and the API server."""
        if not self.settings.exempt_self:
            return
        mine = own_cgroup()
        if mine is None:
            log.warning("this process has no cgroup of its own, so it cannot be exempt")
        else:
            self._node.exempt.add(mine, if_missing=True)

    def _attach(self) -> None:
        s = self.settings
        result = self._attach_node(self._node)
        changes = ", ".join(f"{name} {what}" for name, what in result) or "nothing changed"
        log.info("attached to %s: %s", s.cgroup or "the cgroup root", changes)

    def _attach_node(self, node: Node) -> list[tuple[str, str]]:
        s = self.settings
        return node.attach(
            s.cgroup,
            s.protocols,
            protect_binds=s.protect_binds,
            host_netns=s.host_netns,
            node_addresses=self._networks(),
        ).changes

    def _end(self) -> None:
        self._notifier.stopping()
        self.source.close(0.5)
        self._web.close()
        self._addresses.close()
        running.remove(self._node.pin)
        if self.settings.detach_on_exit:
            gone = self._node.detach().programs
            log.info("detached: %s", ", ".join(gone) or "nothing was attached")
        self._node.close()

    def _serve(self) -> None:
        if self.settings.listen is None:
            return
        shown = open_node(self._node.pin)  # of the web server's own: it shares no lock with us
        self.metrics.ask(lambda: agent_samples(self))
        self.metrics.ask(lambda: table_samples(shown, self.settings.metrics_services))
        host, port = self.settings.listen
        port = self._web.listen("agent", host, port, self._answer)
        log.info("listening on %s port %d", host, port)

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
            elif self.source.state.pending and now >= self._due:
                self._sync()
                self._due = time.monotonic() + self._window
        if now - self._ticked >= TICK or not self._complete:
            self._tick(now)

    def _first_sync(self) -> None:
        began = time.monotonic()
        if not self._sync():
            return
        try:
            stale = self.programmer.prune(lambda at: self.source.state.owner_of(at) is not None)
        except HostreachError as error:
            self._failed(error)
            return
        self.metrics.writes.labels("remove").inc(stale)
        self._complete = True
        services, slices = self.source.state.counts
        log.info(
            "in step with %d services and %d endpoint slices after %.2f s; %d stale ones removed",
            services,
            slices,
            time.monotonic() - began,
            stale,
        )
        # What lives now lives long: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        self._recheck_at = time.monotonic() + RECHECK
        self._notifier.ready()

    def _sync(self) -> bool:
        """Write what has changed; False if it could not be, and is owed."""
        began = time.monotonic()
        try:
            if self.programmer.owed:
                self.programmer.retry()
            for batch in self.source.state.take():
                put, removed = self.programmer.write(*batch)
                while self.programmer.make_room():
                    put += self.programmer.retry().put
                self.metrics.writes.labels("put").inc(put)
                self.metrics.writes.labels("remove").inc(removed)
                self._ticked = time.monotonic()
                if self._admits and self._ticked >= self._admit_at:
                    self._admit()
                self._notifier.alive()
        except HostreachError as error:
            self._failed(error)
            return False
        now = time.time()
        for changed in self.source.state.take_changed():
            if self._complete:
                self.metrics.programming.observe(max(0.0, now - changed))
        self._admits = bool(self.source.state.ranged)
        self.metrics.sync.observe(time.monotonic() - began)
        if self.settings.health_check_ports:
            self.health.follow(self.source.state.health)
        self._log_problems()
        return True

    def _log_problems(self) -> None:
        for line in self.source.problems_to_log():
            log.warning("%s", line)

    def _failed(self, error: HostreachError) -> None:
        """What was taken is owed by the programmer; the rest still waits in the state."""
        log.error("the tables could not be written: %s", error)
        self.metrics.failures.labels(type(error).__name__).inc()
        self._due = self._retry_at = time.monotonic() + 1.0

    def _tick(self, now: float) -> None:
        self._ticked = now
        self._notifier.alive()
        if not self._complete:
            self._notifier.waiting("waiting for the API server")
        self._follow_addresses()
        if self.pods:  # theirs go with no sync
            self._log_problems()
        if self._complete and now >= self._retry_at:
            self._retry_at = now + RETRY
            self._try_again()
        if self._complete and now >= self._recheck_at:
            self._recheck_at = now + RECHECK
            self._recheck()
        self._note_freshness(now)

    def _try_again(self) -> None:
        if self.health.failed:
            self.health.follow(self.source.state.health)
        try:
            if self.programmer.behind:
                self.programmer.retry()
        except HostreachError as error:
            self._failed(error)

    def _recheck(self) -> None:
        """Somebody may have changed what is ours. What is right is not written."""
        if self.pods:
            self.pods.recheck()
        self.source.state.touch_all()
        if self._sync():
            try:
                self.programmer.prune(lambda at: self.source.state.owner_of(at) is not None)
            except HostreachError as error:
                self._failed(error)

    def _note_freshness(self, now: float) -> None:
        """In step: nothing waits anywhere, and the API server is being heard."""
        fresh = self.source.freshness
        idle = not (self.source.state.pending or self.source.queued or self.programmer.owed)
        if self._complete and idle and fresh.connected:
            self.synced_at = now
        if now - self._noted_at >= 5.0 or (self._complete and not self._noted_at):
            self._noted_at = now
            age = None if self.synced_at is None else time.time() - (now - self.synced_at)
            running.write(self._node.pin, SOURCE, age)

    # --- this node -------------------------------------------------------------------------------

    def _follow_pods(self) -> None:
        """Once there are tables, for exemptions are in them; only pods below our root see any."""
        if self.settings.pod_info:
            root = self.settings.cgroup or find_root()
            self.pods = PodExemptions(self._node.exempt, root, file_of(self._node.pin))

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

    def _complain(self, what: str, error: HostreachError) -> None:
        """Once, of what is tried again and again."""
        self.metrics.failures.labels(type(error).__name__).inc()
        if self._trouble.get(what) != str(error):
            log.error("%s: %s; trying again", what, error)
        self._trouble[what] = str(error)

    def _admit(self) -> None:
        """Pods that came since, and addresses; before the first sync for what is in the tables."""
        began = time.monotonic()
        try:
            listed = self._node.admit()
            self._trouble.pop("clients in source ranges", None)
        except HostreachError as error:
            self._complain("clients in source ranges", error)
        else:
            self._admits = bool(listed if not self._complete else self.source.state.ranged)
        ended = time.monotonic()
        # Where there is much to look at, no more than a tenth of the time goes into it.
        self._admit_at = ended + max(ADMIT, 9 * (ended - began))

    def _networks(self) -> tuple[str, ...] | None:
        chosen = self.settings.node_port_addresses
        if chosen == "all":
            return None
        if chosen == "primary":
            return primary_networks(self.source.state.rules.host_addresses)
        return chosen

    def _follow_addresses(self) -> None:
        networks = self._networks()
        if not self._addresses.changed() and networks == self._followed:
            return
        try:
            self._node.follow_addresses(networks)
            self._followed = networks
        except HostreachError as error:
            self._failed(error)

    def _grow(self, services: int, backends: int) -> bool:
        """Room for so many more, and half as much again; the programs are replaced in place."""
        status = self._node.status()
        usage = [each for each in (status.services, status.backends, status.slots) if each]
        sizes = [
            min(max(each.capacity, (each.used + more) * 3 // 2), CAPACITY_MAX)
            for each, more in zip(usage, (services, backends, backends), strict=False)
        ]
        if sizes == [each.capacity for each in usage]:
            return False
        with open_node(self._node.pin, capacities=Capacities(*sizes)) as larger:
            self._attach_node(larger)
        log.warning("the tables have grown: room for %s", _shown(self._node))
        return True

    # --- what others ask -------------------------------------------------------------------------

    def _answer(self, path: str) -> Answer:
        if path == "/metrics":
            kind = "text/plain; version=0.0.4; charset=utf-8"
            return Answer(200, self.metrics.text(), {"Content-Type": kind})
        if path == "/readyz":
            return Answer(200, b"ok\n") if self._complete else Answer(503, b"not in step yet\n")
        if path in ("/healthz", "/livez"):
            return Answer(200, b"ok\n") if self._is_alive() else Answer(503, b"the loop is stuck\n")
        return Answer(404, b"there are /healthz, /readyz and /metrics\n")

    def _is_alive(self) -> bool:
        return time.monotonic() - self._ticked < STUCK

    def _is_healthy(self) -> bool:
        """As kube-proxy would say it of itself to a load balancer."""
        heard = self.source.freshness.heard
        return self._complete and self._is_alive() and time.monotonic() - heard < STALE


def _shown(node: Node) -> str:
    status = node.status()
    tables = {"services": status.services, "backends": status.backends, "slots": status.slots}
    return ", ".join(f"{each.capacity} {name}" for name, each in tables.items() if each)
