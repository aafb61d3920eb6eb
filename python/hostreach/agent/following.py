# SPDX-License-Identifier: Apache-2.0
"""The agent that follows files, and checks the backends that they name."""

from __future__ import annotations

import logging
import os
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from hostreach import running
from hostreach.errors import HostreachError
from hostreach.models import Frontend, Service
from hostreach.node import Node
from hostreach.plain import PlainFrontend, PlainService, plain_frontend
from hostreach.services import check_cgroup
from hostreach.sources.files import Changes, Files
from hostreach.sources.reader import Entry
from hostreach.sources.tree import SETTLED
from hostreach.sources.watching import Heard

from .apart import Apart
from .checks.desk import Desk
from .keeper import TICK, Keeper
from .metrics import CheckMetrics
from .samples import check_samples, file_samples
from .settings import FileSettings

log = logging.getLogger("hostreach.agent")

LOOK = 10.0
"""Seconds between looks at everything: some file systems, such as NFS, tell of nothing."""
REPORT = 0.5
"""Seconds within which `svc show` knows what checks came to."""
BATCH = 1000
"""Services of one write: the lock is held no longer than that takes."""


def source_name(owner: str) -> str:
    """As `status` shows it: there may be several, each with an owner of its own."""
    return "file" if owner == "file" else f"file:{owner}"


class FileAgent(Keeper):
    """One instance, some files.

    Attributes:
        files: what they say.
        waiting: services for a cgroup that is not there, or not yet.
    """

    waits_for = "the files"
    follows = "the files"

    def __init__(self, node: Node, settings: FileSettings) -> None:
        super().__init__(node, settings.owner, settings)
        self.source_name = source_name(settings.owner)
        self.settings = settings
        self.files = Files(settings.paths, settings.owner)
        self.waiting: dict[Frontend, Service] = {}
        self._heard = Heard(everything=True)
        self._look_at = 0.0
        self._changes: Changes = {}
        self._in_cgroups: dict[Frontend, Service] = {}
        self._ranges: set[Frontend] = set()
        self._pruned = False
        self._told: list[str] = []
        self._found: dict[Frontend, frozenset[str]] = {}
        self._apart = Apart(node.exempt)
        self._checks = False  # whether there was ever one
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.desk = Desk(
            settings.checks_at_once,
            settings.all_down,
            lambda frontend: self._found.get(frontend, frozenset()),
            lambda: os.eventfd_write(self._wake, 1),
            CheckMetrics(self.metrics.registry),
        )
        self._report_at: float | None = None
        self._poll = select.poll()
        self._poll.register(self.files.tree.watching, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)

    # --- beginning and end -----------------------------------------------------------------------

    def _begin(self) -> None:
        """What the files say is known before anything is loaded."""
        self._look(time.monotonic())

    def _attached(self) -> None:
        """What the table has down and the files have not, an agent before this one found."""
        for service in self._node.services.list(self.settings.owner):
            down = frozenset(b.address for b in service.backends if b.state == "down")
            if down:
                self._found[service.frontend] = down

    def _close(self) -> None:
        self.files.close()
        self.desk.close()
        self._note_checks({})
        self._apart.end()

    def _note_checks(self, found: Mapping[str, Mapping[str, running.Checked]]) -> None:
        running.write_checks(self._node.pin, self.settings.owner, self.source_name, found)

    def _metrics_of_source(self) -> None:
        self.metrics.ask(lambda: file_samples(self))
        self.metrics.ask(lambda: check_samples(self, self._busiest))

    # --- the loop --------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = time.monotonic()
        at = min(now + TICK, self._look_at, self._ticked + TICK)
        if self._changes:
            at = min(at, self._due)
        if self._admits:
            at = min(at, self._admit_at)
        if self._report_at is not None:
            at = min(at, self._report_at)
        self._poll.poll(max(0.0, at - now) * 1000)
        now = time.monotonic()
        self._hear(now)
        self._hear_of_checks(now)
        if now >= self._look_at:
            self._look(now)
        if self._admits and now >= self._admit_at:
            self._admit()
        prunes = not self._pruned and self.files.whole
        begins = not self._complete and not self.files.unsettled
        if now >= self._due and (self._changes or begins or prunes):
            self._sync()
        if now - self._ticked >= TICK:
            self._tick(now)

    def _hear(self, now: float) -> None:
        """What is heard soon after goes with it: an editor does not write a file at one stroke."""
        heard = self.files.tree.watching.hear()
        if heard and not self._heard:
            self._look_at = now + self._window
        self._heard.paths |= heard.paths
        self._heard.whole |= heard.whole
        self._heard.everything |= heard.everything

    def _hear_of_checks(self, now: float) -> None:
        """What checks come to, and tell it to those who ask, not at every single result."""
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake)
            for frontend in self.desk.news():
                if frontend in self.files.entries:
                    self._changes[frontend] = self.files.entries[frontend]
                    self._report_at = self._report_at or now + REPORT
        if self._report_at is not None and now >= self._report_at:
            self._report_at = None
            self._note_checks(self.desk.report())

    def _look(self, now: float) -> None:
        heard, self._heard = self._heard, Heard()
        # Nothing was heard: then it is the time for a look at everything, or at what was unsettled.
        heard.everything |= not heard and not self.files.unsettled
        self._changes.update(self.files.look(heard))
        self._look_at = now + (SETTLED if self.files.unsettled else LOOK)
        if self.files.problems != self._told:
            self._told = self.files.problems
            if self._complete:
                self._note()

    def _sync(self) -> None:
        """Write what has changed, and once all files were right what they do not say goes."""
        began = time.monotonic()
        changes, self._changes = self._changes, {}
        if not self._write(self._batches(changes)):
            # What the programmer did not get to is taken from the files once more.
            for frontend in changes.keys() - self._changes.keys():
                self._changes[frontend] = self.files.entries.get(frontend)
            return
        self.metrics.sync.observe(time.monotonic() - began)
        stale: int | None = 0
        if not self._pruned and self.files.whole:
            stale = self._prune(self._wanted)
            self._pruned = stale is not None
        # Not before a file that was just written has been read for the first time.
        if not self._complete and stale is not None and not self.files.unsettled:
            self._found.clear()
            self._completed()
            log.info(
                "in step with %d services of %d files after %.2f s; %d stale ones removed",
                len(self.files.entries),
                self.files.count,
                time.monotonic() - began,
                stale,
            )
            self._tell_of_none()

    def _tell_of_none(self) -> None:
        """Nothing is removed for want of a file: why services are there that no file has."""
        if self._pruned or not self.files.empty:
            return
        listed = self._node.services.list(self.settings.owner)
        if held := sum(service.frontend not in self.files.entries for service in listed):
            log.warning(
                "%d services that no file has stay as they were, for there is no file in %s, as "
                "where a disk is not mounted; one with `services: []` lets them go",
                held,
                ", ".join(sorted(self.files.empty)),
            )

    def _batches(
        self, changes: Changes
    ) -> Iterator[tuple[list[PlainService], list[PlainFrontend]]]:
        put: list[PlainService] = []
        gone: list[PlainFrontend] = []
        for frontend, entry in changes.items():
            service = self._judged(frontend, entry)
            self._remember(frontend, service)
            if service is None:
                gone.append(plain_frontend(frontend))
            elif (plain := self._plain(service)) is not None:
                put.append(plain)
            if len(put) + len(gone) >= BATCH:
                yield put, gone
                put, gone = [], []
        yield put, gone

    def _judged(self, frontend: Frontend, entry: Entry | None) -> Service | None:
        """As it is to be in the tables."""
        checked = self.desk.count
        if entry is None:
            self.desk.forget(frontend)
        else:
            if entry.check is not None and not self._checks:
                self._checks = True
                self._stand_apart()
            service = self.desk.follow(entry.service, entry.check)
        if checked or self.desk.count:
            self._report_at = self._report_at or time.monotonic() + REPORT
        return None if entry is None else service

    def _stand_apart(self) -> None:
        """No service may stand between a check and its backend: our own cgroup sees none."""
        self._apart.stand("a backend whose address is a service's is checked where that leads")

    def _remember(self, frontend: Frontend, service: Service | None) -> None:
        """What has to be seen to now and then."""
        self._in_cgroups.pop(frontend, None)
        self.waiting.pop(frontend, None)
        self._ranges.discard(frontend)
        if service is None:
            return
        if service.from_cgroup:
            self._in_cgroups[frontend] = service
        if service.source_ranges:
            self._ranges.add(frontend)

    def _plain(self, service: Service) -> PlainService | None:
        """For the tables; None if its cgroup is not there: then it waits, and others do not."""
        what = f"service {service.frontend}"
        try:
            plain = self._node.plain.plain(service)
            check_cgroup(plain)
        except HostreachError as error:
            self.waiting[service.frontend] = service
            if self._trouble.get(what) != str(error):
                log.warning("%s is not written: %s", what, error)
            self._trouble[what] = str(error)
            return None
        self._trouble.pop(what, None)
        return plain

    def _again(self) -> None:
        """A cgroup that is made anew is another one, though it has the same path."""
        if self._checks:
            self._stand_apart()
        self._changes.update(
            (frontend, self.files.entries[frontend])
            for frontend in self._in_cgroups
            if frontend in self.files.entries
        )

    def _recheck(self) -> None:
        self._changes.update(self.files.entries)
        self._pruned = False

    def _wanted(self, at: PlainFrontend) -> bool:
        address, port, protocol = at
        return Frontend.model_construct(address=address, port=port, protocol=protocol) in (
            self.files.entries
        )

    def _idle(self) -> bool:
        return not (self._changes or self._heard or self.files.unsettled)

    def _ranged(self) -> bool:
        return bool(self._ranges)

    def _networks(self) -> tuple[str, ...] | None:
        return self.settings.node_addresses

    def _problems(self) -> Sequence[str]:
        waiting = [f"{each}: waits for its cgroup" for each in map(str, self.waiting)]
        return [*self.files.problems, *waiting]
