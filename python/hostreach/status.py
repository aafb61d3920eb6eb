# SPDX-License-Identifier: Apache-2.0
"""What a node tells of its programs and tables: what was done, and what is so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .datapath.attaching import Description


@dataclass(frozen=True)
class AttachResult:
    """What `Node.attach` did: ``changes`` are a hook and "added", "replaced" or "removed".

    ``grown``: the tables became larger. ``migrated``: they were of an older version's layout.
    """

    cgroup: str
    protocols: tuple[str, ...]
    changes: list[tuple[str, str]]
    grown: bool = False
    migrated: bool = False


@dataclass(frozen=True)
class DetachResult:
    """What `Node.detach` did: the hooks that ran a program of ours, and whether tables went.

    ``sockets`` are connected to where a service sent them; from now on they see the backend as
    their peer. None: this kernel does not tell.
    """

    programs: list[str]
    purged: bool
    sockets: int | None = 0


@dataclass(frozen=True)
class OtherProgram:
    """Somebody else's program on a hook of ours.

    ``before``: it runs before ours, so it sees a service's address first, and ours sees what it
    made of that. One that runs after ours sees the backend's. None: ours does not run there.
    """

    program_id: int
    name: str
    before: bool | None = None


@dataclass(frozen=True)
class ProgramStatus:
    """One hook. ``effective`` is the kernel's word that our program runs; None: it will not say.

    ``others`` are in the order that they run in.
    """

    name: str
    attached: bool
    effective: bool | None
    program_id: int | None
    others: list[OtherProgram]


@dataclass(frozen=True)
class Usage:
    """How much of a table is used."""

    used: int
    capacity: int


@dataclass(frozen=True)
class Status:
    """What an instance is doing. ``cgroup`` is None while it is not attached.

    ``services``, ``backends`` and ``slots`` are None where there are no tables.
    """

    pin: str
    cgroup: str | None = None
    protocols: tuple[str, ...] = ()
    protect_binds: bool = False
    programs: list[ProgramStatus] = field(default_factory=list)
    services: Usage | None = None
    backends: Usage | None = None
    slots: Usage | None = None
    translations: int = 0
    """Connects and sends that were translated, since the tables were made."""
    refusals: int = 0
    """The same, for want of a backend or of an address in the source ranges."""
    overflowed: int = 0
    """Services that unconnected sockets had no room to remember by themselves."""
    storage_failed: int = 0
    """Socket storage that could not be made, for want of memory."""
    unremembered: int = 0
    """Calls that nothing at all remembers: TCP goes on without, UDP was refused."""
    interrupted: bool = False
    """The last writer was killed at work: the next one mends what it left."""
    first: bool = False
    """The programs run before other vendors'."""
    attached_by: Literal["link", "program"] | None = None
    """``program``: without links, which this kernel did not have. None while not attached."""
    remembers: Literal["sockets", "lru"] | None = None
    """Where it is kept what sockets asked for. ``lru``: in one table for all, for want of socket
    storage, which forgets the least recently used."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return asdict(self)


def status_of(pin: str, found: Description) -> Status:
    """As the tables describe it."""
    services, backends, slots = map(Usage, found.counts, found.capacities)
    translations, refusals = found.traffic
    overflowed, storage_failed, unremembered = found.events
    return Status(
        pin,
        found.hooks["cgroup"],
        tuple(name for name in ("tcp", "udp") if found.hooks[name]),
        found.hooks["protect_binds"],
        [
            ProgramStatus(hook, attached, effective, number or None, _others(run, number))
            for hook, attached, effective, number, run in found.hooks["programs"]
        ],
        services,
        backends,
        slots,
        translations,
        refusals,
        overflowed,
        storage_failed,
        unremembered,
        found.interrupted,
        found.hooks["first"],
        found.hooks["attached_by"] if found.hooks["cgroup"] else None,
        found.hooks["remembers"] if found.hooks["cgroup"] else None,
    )


def _others(run: Sequence[tuple[int, str]], ours: int) -> list[OtherProgram]:
    """Of the programs that run on a hook, in order, those that are not ours."""
    ids = [number for number, _ in run]
    at = ids.index(ours) if ours in ids else None
    return [
        OtherProgram(number, name, None if at is None else i < at)
        for i, (number, name) in enumerate(run)
        if number != ours
    ]
