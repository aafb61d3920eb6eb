# SPDX-License-Identifier: Apache-2.0
"""Which services are checked, by which checks, and how they are to be in the tables therefore."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from hostreach.checks import AllDown, Check
from hostreach.models import Frontend, Service
from hostreach.running import Checked

from .judge import judge
from .probes import Target
from .runner import Health, Runner, Told

log = logging.getLogger("hostreach.agent")

Down = Callable[[Frontend], frozenset[str]]
"""Backends of a service that the table has down."""


class Watched(NamedTuple):
    """A service whose backends are checked, as its file has it."""

    service: Service
    check: Check
    targets: dict[str, Target]
    """By backend."""


def _is_awaited(service: Collection[Health]) -> Callable[[Health], bool]:
    """Whether a service has to wait for a backend's first result, given what it has of all.

    Not if its check cannot be done, as with IPv6 switched off, where others' can: a lack of
    descriptors stands against all of them, and passes.
    """
    others = min((each.known for each in service), default=math.inf)
    return lambda each: each.passes is None and each.undone <= others


class Desk:
    """Not for two threads at once.

    Attributes:
        all_down: services all of whose backends fail.
    """

    def __init__(
        self, at_once: int, rule: AllDown, down: Down, changed: Callable[[], None], told: Told
    ) -> None:
        """``down`` tells what an agent before this one found; ``changed`` is for another thread."""
        self.all_down: set[Frontend] = set()
        self._rule = rule
        self._down = down
        self._runner = Runner(at_once, changed, told)
        self._watched: dict[Frontend, Watched] = {}
        self._users: dict[Target, set[Frontend]] = {}
        self._inherited: set[Target] = set()
        self._judged: set[Frontend] = set()

    @property
    def health(self) -> Mapping[Target, Health]:
        """What is thought of each target, at this moment; for any thread."""
        return self._runner.health.copy()

    @property
    def watched(self) -> Mapping[Frontend, Watched]:
        """Services that are checked; the same."""
        return self._watched.copy()

    @property
    def count(self) -> int:
        """Services that are checked."""
        return len(self._watched)

    def follow(self, service: Service, check: Check | None) -> Service:
        """Check this service so, or no longer; how it is to be in the table."""
        frontend = service.frontend
        targets: dict[str, Target] = {}
        if check is not None:
            for backend in service.backends:
                targets[backend.address] = Target.of(backend.address, check, frontend.protocol)
        before = self._watched.pop(frontend, None)
        old = {*before.targets.values()} if before else set()
        new = {*targets.values()}
        for target in new - old:
            self._users.setdefault(target, set()).add(frontend)
        add = [target for target in new - old if target not in self._runner.health]
        failing = self._found_before(service, targets, before) & {*add}
        self._inherited |= failing
        self._runner.follow(add, self._unused(frontend, old - new), failing)
        if check is None:
            self._forget(frontend)
            return service
        self._watched[frontend] = Watched(service, check, targets)
        return self.judge(frontend)

    def forget(self, frontend: Frontend) -> None:
        """The service is gone."""
        if (before := self._watched.pop(frontend, None)) is not None:
            self._runner.follow((), self._unused(frontend, {*before.targets.values()}), ())
        self._forget(frontend)

    def judge(self, frontend: Frontend) -> Service:
        """The service as its checks have it now."""
        watched = self._watched[frontend]
        health = {
            backend: self._runner.health[target] for backend, target in watched.targets.items()
        }
        # Until all are known: or one by one would go down where in the end none does.
        if not any(map(_is_awaited(health.values()), health.values())):
            self._judged.add(frontend)
        # Results come meanwhile: what was known above is known below.
        passes = {
            backend: each.passes
            for backend, each in health.items()
            if frontend in self._judged or watched.targets[backend] in self._inherited
        }
        verdict = judge(watched.service, passes, watched.check.all_down or self._rule)
        self._note_all_down(frontend, watched.check, all_down=verdict.all_down)
        return verdict.service

    def news(self) -> set[Frontend]:
        """Services of which something else is thought since the last call."""
        found: set[Frontend] = set()
        for target in self._runner.news():
            health = self._runner.health.get(target)
            users = self._users.get(target, set())
            self._inherited.discard(target)
            found |= users
            for frontend in sorted(users, key=lambda each: each.sort_key) if health else ():
                if health and health.passes:
                    log.info("%s: backend %s passes its checks", frontend, target.backend)
                elif health and health.passes is not None:
                    log.warning("%s: backend %s fails: %s", frontend, target.backend, health.why)
        return found

    def report(self) -> dict[str, dict[str, Checked]]:
        """For `hostreach.running.write_checks`."""
        health = self._runner.health
        return {
            str(frontend): {
                backend: Checked(found.passes, found.why, found.since)
                for backend, target in watched.targets.items()
                if (found := health.get(target))
            }
            for frontend, watched in self._watched.items()
        }

    def close(self) -> None:
        """Check nothing any more."""
        self._runner.close()

    def _found_before(
        self, service: Service, targets: Mapping[str, Target], before: Watched | None
    ) -> set[Target]:
        """What failed so far has to rise, also by a check that is another one now."""
        if before is not None:
            health = self._runner.health
            down = {b for b, target in before.targets.items() if health[target].passes is False}
        else:
            # What is down in the table, and not in the file, another agent found to fail.
            meant = {backend.address for backend in service.backends if backend.state == "down"}
            down = {*self._down(service.frontend)} - meant
        return {targets[backend] for backend in down & targets.keys()}

    def _unused(self, frontend: Frontend, targets: set[Target]) -> list[Target]:
        """Those of ``targets`` that no other service has."""
        unused = []
        for target in targets:
            self._users[target].discard(frontend)
            if not self._users[target]:
                del self._users[target]
                self._inherited.discard(target)
                unused.append(target)
        return unused

    def _forget(self, frontend: Frontend) -> None:
        self._judged.discard(frontend)
        self.all_down.discard(frontend)

    def _note_all_down(self, frontend: Frontend, check: Check, *, all_down: bool) -> None:
        if all_down == (frontend in self.all_down):
            return
        if all_down:
            rule = check.all_down or self._rule
            what = "all are used" if rule == "use-all" else "its clients are refused"
            log.error("%s: all backends fail their checks; %s", frontend, what)
            self.all_down.add(frontend)
        else:
            log.info("%s: not all backends fail any more", frontend)
            self.all_down.discard(frontend)
