# SPDX-License-Identifier: Apache-2.0
"""Every Service and EndpointSlice of the cluster, and what a change of one means for the tables.

Changes are put in as they come; `State.take` then gives the entries of those services that are
concerned. An address and port that several services claim is the oldest one's, but a cluster IP is
the cluster's to give.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from hostreach.plain import PlainFrontend, PlainService
from hostreach.syntax import NODE, format_frontend

from .intake import KubeService, Problem, Slice
from .services import Rules, entries, local_ready

Kind = Literal["Service", "EndpointSlice", "Pod"]
"""Of objects; what pods mean is kept elsewhere, but for their problems."""
BATCH = 500
"""Services at a time: a first sync of a large cluster need not hold all entries at once."""
SKEW = 2.0
"""Seconds by which a change may seem older than it is: one for the whole seconds that it is told
in, one for clocks that differ."""


class Batch(NamedTuple):
    """Entries to be there, and frontends to be there no longer."""

    put: list[PlainService]
    remove: list[PlainFrontend]


class HealthPort(NamedTuple):
    """What an external load balancer asks this node about a service."""

    port: int
    endpoints: int


class State:
    """Not for two threads at once.

    ``since`` is when somebody began to follow the changes, in seconds since 1970: older ones waited
    for nobody here.

    Attributes:
        health: the healthCheckNodePort of each service that has one.
        problems: what was left out of each object, and why.
        ranged: services with an entry that has source ranges.
    """

    def __init__(self, rules: Rules, since: float = 0.0) -> None:
        self.rules = rules
        self.health: dict[str, HealthPort] = {}
        self.problems: dict[tuple[Kind, str], tuple[Problem, ...]] = {}
        self.ranged: set[str] = set()
        self._services: dict[str, KubeService] = {}
        self._slices: dict[str, dict[str, Slice]] = {}
        self._service_of: dict[str, str] = {}
        self._held: dict[str, tuple[PlainFrontend, ...]] = {}
        self._winner: dict[PlainFrontend, str] = {}
        self._waiting: dict[PlainFrontend, set[str]] = {}
        self._dirty: dict[str, None] = {}
        self._changed: list[float] = []
        self._since = since - SKEW

    @property
    def pending(self) -> int:
        """Services that a change concerns and that were not taken."""
        return len(self._dirty)

    @property
    def counts(self) -> tuple[int, int]:
        """Services and EndpointSlices that are known."""
        return len(self._services), len(self._service_of)

    def owner_of(self, frontend: PlainFrontend) -> str | None:
        """The service whose entry stands, or should stand, at an address and port."""
        return self._winner.get(frontend)

    def put_service(self, key: str, service: KubeService | None) -> None:
        """The service as it is now; None if it is gone, or none that is to be programmed."""
        if service is None:
            self._services.pop(key, None)
        elif self._services.get(key) == service:
            return
        else:
            self._services[key] = service
        self.problems.pop(("Service", key), None)
        self._dirty[key] = None

    def put_slice(self, key: str, piece: Slice | None) -> None:
        """The EndpointSlice as it is now; None as for services."""
        before = self._service_of.get(key)
        if before is not None and (piece is None or piece.service != before):
            pieces = self._slices[before]
            del pieces[key]
            if not pieces:
                del self._slices[before]
            del self._service_of[key]
            self._dirty[before] = None
        self.report("EndpointSlice", key, piece.problems if piece else ())
        if piece is None:
            return
        pieces = self._slices.setdefault(piece.service, {})
        old = pieces.get(key)
        pieces[key] = piece
        self._service_of[key] = piece.service
        if old is None or old._replace(changed=piece.changed) != piece:
            self._dirty[piece.service] = None
            # With the time of a change that was seen, it is only read in another way, as when this
            # node has come into a zone.
            began, seen = piece.changed, old.changed if old else None
            if began is not None and began > self._since and began != seen:
                self._changed.append(began)

    def refuse(self, kind: Kind, key: str, problem: Problem) -> None:
        """An object that cannot be used at all: as if it were gone, but reported."""
        if kind == "Service":
            self.put_service(key, None)
            self.report(kind, key, (problem,))
        else:
            self.put_slice(key, None)
            self.report(kind, key, (problem,))

    def keys(self, kind: Kind) -> list[str]:
        """Of the objects that are known, the refused ones among them."""
        known = self._services if kind == "Service" else self._service_of
        refused = [key for of, key in self.problems if of == kind and key not in known]
        return [*known, *refused]

    def touch_all(self) -> None:
        """Every service is to be taken again, as when the rules have changed."""
        self._dirty.update(dict.fromkeys(self._services))

    def touch(self, frontend: PlainFrontend) -> None:
        """The service at this frontend is to be taken again."""
        if (key := self._winner.get(frontend)) is not None:
            self._dirty[key] = None

    def take_changed(self) -> list[float]:
        """Since when the changes that were taken had waited to be programmed; given once."""
        changed, self._changed = self._changed, []
        return changed

    def take(self) -> Iterator[Batch]:
        """What the tables need, in batches; each is worked out when it is asked for."""
        while self._dirty:
            put: dict[PlainFrontend, PlainService] = {}
            remove: dict[PlainFrontend, None] = {}
            taken = 0
            while self._dirty and taken < BATCH:
                key, _ = self._dirty.popitem()  # the first one would be sought for among holes
                self._take_one(key, put, remove)
                taken += 1
            yield Batch([*put.values()], [at for at in remove if at not in put])

    def _take_one(
        self,
        key: str,
        put: dict[PlainFrontend, PlainService],
        remove: dict[PlainFrontend, None],
    ) -> None:
        service = self._services.get(key)
        slices = [*self._slices.get(key, {}).values()]
        found: list[PlainService] = []
        problems: list[Problem] = []
        self.health.pop(key, None)
        if service is not None:
            found, problems = entries(service, slices, self.rules)
            problems[:0] = service.problems
            if service.health_port:
                self.health[key] = HealthPort(service.health_port, local_ready(slices))
        self.ranged.discard(key)
        if any(entry[11] for entry in found):
            self.ranged.add(key)
        wanted = {(entry[0], entry[1], entry[2]): entry for entry in found}
        for frontend in self._held.pop(key, ()):
            if frontend not in wanted:
                self._release(frontend, key, put, remove)
        for frontend, entry in wanted.items():
            winner = self._claim(frontend, key)
            if winner == key:
                put[frontend] = entry
            else:
                problems.append(Problem("claimed", f"{format_frontend(*frontend)} is {winner}'s"))
        if wanted:
            self._held[key] = tuple(wanted)
        if service is not None:
            self.report("Service", key, tuple(problems))

    def _claim(self, frontend: PlainFrontend, key: str) -> str:
        """Who has it now."""
        before = self._winner.get(frontend)
        waiting = self._waiting.get(frontend, set())
        claims = {key, *waiting} if before is None else {key, before, *waiting}
        winner = min(claims, key=lambda each: self._precedence(each, frontend))
        self._winner[frontend] = winner
        if len(claims) > 1:
            self._waiting[frontend] = claims - {winner}
        if winner != before:
            # The others are concerned too: who wins now, who no longer does, and who says so.
            self._dirty.update(dict.fromkeys(sorted(claims - {key})))
        return winner

    def _precedence(self, key: str, frontend: PlainFrontend) -> tuple[int, str, str, str]:
        """The lowest has the frontend: the oldest of those whose claim is as good.

        Cluster IPs and node ports are given out by the cluster, each once; a load balancer's
        address is its controller's word, and an external IP anybody's.
        """
        service = self._services.get(key)
        if service is None:  # gone, but that was not taken yet
            return (3, "", key, "")
        if frontend[0] in (NODE, *service.cluster_ips):
            return (0, *service.age)
        return (1 if frontend[0] in service.balancer_ips else 2, *service.age)

    def _release(
        self,
        frontend: PlainFrontend,
        key: str,
        put: dict[PlainFrontend, PlainService],
        remove: dict[PlainFrontend, None],
    ) -> None:
        waiting = self._waiting.get(frontend, set())
        waiting.discard(key)
        if self._winner.get(frontend) == key:
            if waiting:
                heir = min(waiting, key=lambda each: self._precedence(each, frontend))
                self._winner[frontend] = heir
                self._dirty.update(dict.fromkeys(sorted(waiting)))
                waiting.discard(heir)
            else:
                del self._winner[frontend]
                put.pop(frontend, None)
                remove[frontend] = None
        if not waiting:
            self._waiting.pop(frontend, None)

    def report(self, kind: Kind, key: str, problems: tuple[Problem, ...]) -> None:
        """What of an object is left out, from now on."""
        if problems:
            self.problems[kind, key] = problems
        else:
            self.problems.pop((kind, key), None)
