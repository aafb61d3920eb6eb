# SPDX-License-Identifier: Apache-2.0
"""What services did between two looks: `Node.survey` takes one. No I/O here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .models import Backend

__all__ = ["SORTS", "BackendUse", "Counters", "Survey", "Use", "backend_uses", "select", "uses"]


class Counters(NamedTuple):
    """One service's, since it was added."""

    frontend: str
    name: str | None
    owner: str
    algorithm: str
    backends: int
    translations: int
    refusals: int
    open: int
    """Connections from this node to its backends."""


class Survey(NamedTuple):
    """All services' at one moment, in the order of `Services.rows`."""

    at: float
    """Seconds of a clock that is never set."""
    services: list[Counters]


class Use(NamedTuple):
    """One service's counters, and how fast they rise, each second."""

    counters: Counters
    rate: float
    refused_rate: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            **self.counters._asdict(),
            "translations_per_second": round(self.rate, 3),
            "refusals_per_second": round(self.refused_rate, 3),
        }


class BackendUse(NamedTuple):
    """How one backend is used beside the others of its service and address family; shares 0 to 1.

    ``weighs`` is the share of the weights of those that are active, ``share`` of what is new, and
    ``holds`` of the open connections.
    """

    backend: Backend
    weighs: float
    share: float
    open: int
    holds: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            **self.backend.model_dump(mode="json"),
            "weight_share": round(self.weighs, 6),
            "share": round(self.share, 6),
            "open": self.open,
            "open_share": round(self.holds, 6),
        }


def uses(before: Survey, after: Survey) -> list[Use]:
    """What rose between the two; a service that is new, or was added anew, began at 0."""
    seconds = max(after.at - before.at, 1e-3)
    known = {each.frontend: each for each in before.services}
    found = []
    for now in after.services:
        old = known.get(now.frontend)
        translations, refusals = (old.translations, old.refusals) if old else (0, 0)
        if now.translations < translations or now.refusals < refusals:
            translations = refusals = 0
        found.append(
            Use(
                now,
                (now.translations - translations) / seconds,
                (now.refusals - refusals) / seconds,
            )
        )
    return found


SORTS: dict[str, Callable[[Use], Any]] = {
    "rate": lambda use: (-use.rate, -use.counters.translations),
    "refused": lambda use: (-use.refused_rate, -use.counters.refusals, -use.rate),
    "open": lambda use: (-use.counters.open, -use.rate),
    "total": lambda use: -use.counters.translations,
    "backends": lambda use: -use.counters.backends,
    "name": lambda use: (use.counters.name is None, use.counters.name or ""),
    "frontend": lambda _: 0,  # they come in that order
}
"""By what they are sorted: numbers from the largest down, names up."""


def select(found: Iterable[Use], sort: str, *, reverse: bool, text: str) -> list[Use]:
    """Those with ``text`` in frontend, name or owner, whatever its case, sorted."""
    wanted = text.lower()
    chosen = [
        use
        for use in found
        if not wanted
        or wanted in use.counters.frontend
        or wanted in (use.counters.name or "").lower()
        or wanted in use.counters.owner.lower()
    ]
    chosen.sort(key=SORTS[sort])
    return chosen[::-1] if reverse else chosen


def backend_uses(
    backends: Sequence[Backend], slots: Sequence[int], active: Sequence[int]
) -> list[BackendUse]:
    """In the order of ``backends``; the other two are as `Inspection` has them."""
    rows = [*zip(backends, slots, active, strict=True)]

    def part(of: Callable[[Backend, int, int], int], backend: Backend, mine: int) -> float:
        all_of = sum(of(*row) for row in rows if row[0].family == backend.family)
        return mine / all_of if all_of else 0.0

    def weight(backend: Backend, *_: int) -> int:
        return backend.weight if backend.state == "active" else 0

    return [
        BackendUse(
            backend,
            part(weight, backend, weight(backend)),
            part(lambda _, own, __: own, backend, slot),
            open_,
            part(lambda _, __, own: own, backend, open_),
        )
        for backend, slot, open_ in rows
    ]
