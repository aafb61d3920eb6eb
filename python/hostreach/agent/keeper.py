# SPDX-License-Identifier: Apache-2.0
"""What all agents do: attach, write, grow, answer, and tell systemd and `status` how it goes."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence

from hostreach import running
from hostreach.errors import HostreachError, Refused
from hostreach.node import Node
from hostreach.node import open as open_node
from hostreach.options import CAPACITY_MAX, Capacities
from hostreach.plain import PlainFrontend, PlainService

from .addresses import AddressWatch
from .busiest import Busiest
from .metrics import Metrics
from .notify import Notifier
from .programmer import Programmer
from .samples import keeper_samples, table_samples
from .settings import KeeperSettings
from .web import Answer, WebServer

log = logging.getLogger("hostreach.agent")

TICK = 0.5
"""Seconds: how soon a signal, an address or the watchdog is seen to."""
ADMIT = 0.9
"""How often clients are looked for that may use services with source ranges: within a second."""
RETRY = 5.0
"""How often what could not be written is tried again."""
RECHECK = 600.0
"""How often the whole table is compared with what it should hold."""
STUCK = 30.0
LATE = 60.0
"""After so long with changes that are not in the tables an agent calls itself unhealthy."""


class Keeper:
    """Keeps one instance in step with one source, in one owner's name. `run` is its life.

    Those that follow a source say what it is, by the methods that raise NotImplementedError here.

    Attributes:
        synced_at: when the tables were last known to be in step, by time.monotonic(), or None.
    """

    source_name: str
    """As `status` shows it."""
    waits_for: str
    """What is waited for until the first sync."""
    follows: str
    """What the tables are in step with then."""

    def __init__(self, node: Node, owner: str, settings: KeeperSettings) -> None:
        self.programmer = Programmer(node.plain, owner, self._grow)
        self.metrics = Metrics()
        self.synced_at: float | None = None
        self._node = node
        self._settings = settings
        self._busiest = Busiest(settings.metrics_services)
        self._web = WebServer()
        self._notifier = Notifier()
        self._addresses = AddressWatch()
        self._followed: tuple[str, ...] | None = None
        self._elsewhere = False
        self._addresses_due = True
        self._ticked = time.monotonic()
        self._complete = False
        self._window = settings.window_ms / 1000
        self._due = self._retry_at = self._recheck_at = self._noted_at = 0.0
        self._noted_synced = False
        self._failing = False
        self._behind_since: float | None = None
        self._admit_at = 0.0
        self._admits = True
        self._trouble: dict[str, str] = {}
        self._pinned: tuple[int, int] | None = None

    def run(self, stopped: Callable[[], bool]) -> None:
        """Until ``stopped``. Programs and tables stay, unless the settings say otherwise."""
        # Millions of small objects come and stay, with no cycle among them.
        gc.set_threshold(100_000, 20, 100)
        try:
            self._check()
            self._serve()
            self._begin()
            self._notifier.waiting("loading the programs")
            running.write(self._node.pin, self.source_name, None)  # for who ends: `_detach`
            self._attach()
            self._attached()
            while not stopped():
                self._turn()
        finally:
            self._end()

    # --- what a source has to say ----------------------------------------------------------------

    def _begin(self) -> None:
        """Before the programs are loaded."""
        raise NotImplementedError

    def _attached(self) -> None:
        """Once they are, and there are tables."""

    def _turn(self) -> None:
        """Wait for news, `TICK` at most, and see to it; `_tick` as often."""
        raise NotImplementedError

    def _networks(self) -> tuple[str, ...] | None:
        """Where ``node:`` frontends are, as `Node.attach` takes it."""
        raise NotImplementedError

    def _idle(self) -> bool:
        """Whether the source is being heard, and all that it said is in the tables."""
        raise NotImplementedError

    def _waits(self) -> bool:
        """Whether something that it said waits to be written."""
        return False

    def _ranged(self) -> bool:
        """Whether any service has source ranges."""
        raise NotImplementedError

    def _again(self) -> None:
        """Every `RETRY` seconds."""

    def _recheck(self) -> None:
        """Somebody may have changed what is ours. What is right is not written."""
        raise NotImplementedError

    def _problems(self) -> Sequence[str]:
        """For `status`: what of the source could not be used, in a line each."""
        return ()

    def _close(self) -> None:
        """Let go of the source."""

    # --- beginning and end -----------------------------------------------------------------------

    def _check(self) -> None:
        """What can never be is told before anything is begun."""
        s = self._settings
        self._node.check_attach(
            s.cgroup, s.protocols, protect_binds=s.protect_binds, host_netns=s.host_netns
        )

    def _attach(self) -> None:
        result = self._attach_node(self._node)
        changes = ", ".join(f"{name} {what}" for name, what in result) or "nothing changed"
        log.info("attached to %s: %s", self._settings.cgroup or "the cgroup root", changes)
        self._pinned = _identity(self._node.pin)

    def _require_pins(self) -> None:
        """Without them nothing is attached: whoever starts us again makes all of it anew."""
        if not self._is_pinned():
            raise Refused(
                "the tables and programs are gone: bpffs was unmounted, or the instance purged; "
                "the agent makes them anew when it starts again",
                object=self._node.pin,
            )

    def _is_pinned(self) -> bool:
        """Whether what this process attached, if it did, is what is there."""
        return self._pinned is not None and _identity(self._node.pin) == self._pinned

    def _attach_node(self, node: Node) -> list[tuple[str, str]]:
        s = self._settings
        return node.attach(
            s.cgroup,
            s.protocols,
            protect_binds=s.protect_binds,
            host_netns=s.host_netns,
            node_addresses=self._networks(),
        ).changes

    def _end(self) -> None:
        self._notifier.stopping()
        self._close()
        self._web.close()
        self._addresses.close()
        running.remove(self._node.pin, self.source_name)
        if self._settings.detach_on_exit:
            self._detach()
        self._node.close()

    def _detach(self) -> None:
        # Where it never came to attach, they are another's: of the agent that has the port, say.
        if not self._is_pinned():
            return
        others = (a for a in running.alive(self._node.pin) if a.source != self.source_name)
        if other := next(others, None):
            log.info("not detached: agent '%s', pid %d, is still there", other.source, other.pid)
            return
        gone = self._node.detach().programs
        log.info("detached: %s", ", ".join(gone) or "nothing was attached")

    def _serve(self) -> None:
        if self._settings.listen is None:
            return
        shown = open_node(self._node.pin)  # of the web server's own: it shares no lock with us
        self.metrics.ask(lambda: keeper_samples(self))
        self.metrics.ask(lambda: table_samples(shown, self._busiest))
        self._metrics_of_source()  # after these, which choose whom to tell of
        port = self._web.listen_at(self._settings.listen, self._answer)
        log.info("listening on %s port %d", self._settings.listen[0], port)

    def _metrics_of_source(self) -> None:
        """Let `metrics` ask for what the source has to tell."""
        raise NotImplementedError

    # --- writing ---------------------------------------------------------------------------------

    def _write(
        self, batches: Iterable[tuple[Iterable[PlainService], Iterable[PlainFrontend]]]
    ) -> bool:
        """Write what has changed, and what is owed; False if it could not be."""
        try:
            if self.programmer.owed:
                self.programmer.retry()
            for batch in batches:
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
        self._failing = False
        self._admits = self._ranged()
        return True

    def _prune(self, wanted: Callable[[PlainFrontend], bool]) -> int | None:
        """Remove what is ours and not wanted; how many, or None if that failed."""
        try:
            stale = self.programmer.prune(wanted)
        except HostreachError as error:
            self._failed(error)
            return None
        self.metrics.writes.labels("remove").inc(stale)
        return stale

    def _completed(self) -> None:
        """The first sync is done."""
        self._complete = True
        # What lives now lives long: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        self._recheck_at = time.monotonic() + RECHECK
        self._notifier.ready(f"in step with {self.follows}")

    def _failed(self, error: HostreachError) -> None:
        """What was taken is owed by the programmer; the rest still waits in the source."""
        log.error("the tables could not be written: %s", error)
        self._failing = True
        self.metrics.failures.labels(type(error).__name__).inc()
        self._due = self._retry_at = time.monotonic() + 1.0

    def _complain(self, what: str, error: HostreachError) -> None:
        """Once, of what is tried again and again."""
        self.metrics.failures.labels(type(error).__name__).inc()
        if self._trouble.get(what) != str(error):
            log.error("%s: %s; trying again", what, error)
        self._trouble[what] = str(error)

    # --- now and then ----------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        self._ticked = now
        self._notifier.alive()
        self._require_pins()
        if not self._complete:
            self._notifier.waiting(f"waiting for {self.waits_for}")
        self._follow_addresses()
        if self._complete and now >= self._retry_at:
            self._retry_at = now + RETRY
            self._again()
            try:
                if self.programmer.behind:
                    self.programmer.retry()
                    self._failing = False
            except HostreachError as error:
                self._failed(error)
        if self._complete and now >= self._recheck_at:
            self._recheck_at = now + RECHECK
            self._recheck()
        self._note_freshness(now)

    def _note_freshness(self, now: float) -> None:
        """In step: nothing waits anywhere, and the source is being heard."""
        # What is owed for want of room does not make it late: all nodes would be at once.
        late = self._failing or self._waits()
        self._behind_since = (self._behind_since or now) if late else None
        if self._complete and self._idle() and not late and not self.programmer.owing:
            self.synced_at = now
        first = self.synced_at is not None and not self._noted_synced
        if first or now - self._noted_at >= 5.0:
            self._note()

    def _note(self) -> None:
        """For `status`."""
        self._noted_at = now = time.monotonic()
        self._noted_synced = self.synced_at is not None
        age = None if self.synced_at is None else time.time() - (now - self.synced_at)
        running.write(self._node.pin, self.source_name, age, self._problems())

    def _admit(self) -> None:
        """Clients that came since, and addresses; before the first sync for what is there."""
        began = time.monotonic()
        try:
            listed = self._node.admit()
            self._trouble.pop("clients in source ranges", None)
        except HostreachError as error:
            self._complain("clients in source ranges", error)
        else:
            self._admits = self._ranged() if self._complete else bool(listed)
        ended = time.monotonic()
        # Where there is much to look at, no more than a tenth of the time goes into it.
        self._admit_at = ended + max(ADMIT, 9 * (ended - began))

    def _follow_addresses(self) -> None:
        networks = self._networks()
        self._addresses_due |= self._addresses.changed() or networks != self._followed
        if not self._addresses_due:
            return
        try:
            self._node.follow_addresses(networks)
        except HostreachError as error:
            self._complain("this node's addresses", error)
        else:
            self._followed, self._addresses_due = networks, False
            self._trouble.pop("this node's addresses", None)
            self._look_for_addresses(networks)

    def _look_for_addresses(self, networks: tuple[str, ...] | None) -> None:
        """Where there is none, nobody reaches a NodePort: told once, until there is one."""
        elsewhere = bool(networks) and not self._node.addresses()
        if elsewhere and not self._elsewhere:
            log.warning("this node has no address in %s", ",".join(networks or ()))
        self._elsewhere = elsewhere

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

    def _answer(self, path: str) -> Answer | Callable[[], Answer]:
        if path == "/metrics":
            return self.metrics.answer
        if path == "/readyz":
            return Answer(200, b"ok\n") if self._complete else Answer(503, b"not in step yet\n")
        if path in ("/healthz", "/livez"):
            return Answer(200, b"ok\n") if self._is_alive() else Answer(503, b"the loop is stuck\n")
        return Answer(404, b"there are /healthz, /readyz and /metrics\n")

    def _is_alive(self) -> bool:
        return time.monotonic() - self._ticked < STUCK

    def _is_late(self) -> bool:
        since = self._behind_since
        return since is not None and time.monotonic() - since > LATE


def _identity(pin: str) -> tuple[int, int] | None:
    """Of the pin directory: another one has another number."""
    try:
        found = os.stat(pin)  # noqa: PTH116
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _shown(node: Node) -> str:
    status = node.status()
    tables = {"services": status.services, "backends": status.backends, "slots": status.slots}
    return ", ".join(f"{each.capacity} {name}" for name, each in tables.items() if each)
