# SPDX-License-Identifier: Apache-2.0
"""What a connect from somewhere would do, and why: `Node.explain`.

The order is the programs' own (bpf/service.bpf.h): the exact address before the node's ports, who
may use the service, who is let in, who is remembered, and what is drawn. Nothing here does I/O, but
for finding out who the caller is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .errors import InvalidInput
from .plain import PlainFrontend, PlainService
from .syntax import format_duration, format_frontend

if TYPE_CHECKING:
    from .models import Service

Outcome = Literal["translated", "refused", "untouched"]


class Caller(NamedTuple):
    """Who connects. ``netns`` is a cookie; 0: it is not known, as where there are no tasks."""

    cgroup: str | None
    netns: int
    netns_of: int | None = None
    """The process that the network namespace is of; None: our own."""
    namespaces: int = 1
    """How many the cgroup's tasks are in."""


class Found(NamedTuple):
    """One service that could be meant, and what the tables know of this caller there."""

    service: PlainService
    admitted: bool
    """By its source ranges, if it has any."""
    stuck_to: tuple[str, float] | None
    """The backend of the caller's affinity, and seconds since it was there."""
    shares: list[int]
    active: list[int]


class Facts(NamedTuple):
    """What the tables and hooks say at one moment."""

    attached: str | None
    """The cgroup."""
    protocols: tuple[str, ...]
    exact: Found | None
    node: Found | None
    """The ``node`` service of this port, if the address is one of the node's."""
    is_host: bool
    """The caller's network namespace is the host's."""
    knows_host: bool
    exempt: list[str]


class Table(Protocol):
    """Where that is read."""

    def facts(self, asked: PlainFrontend, netns: int) -> Facts:
        """For a caller in this network namespace."""


@dataclass(frozen=True)
class BackendShare:
    """A backend, and how much of what is new it gets from this caller's address family."""

    address: str
    weight: int
    state: str
    share: float
    """0 to 1."""
    open: int
    """Connections from this node."""
    why: str | None
    """Why it gets nothing, or why it gets something although it should not."""


@dataclass(frozen=True)
class Explanation:
    """What would become of a connect, why, and who might answer it."""

    asked: str
    outcome: Outcome
    caller: Caller
    reasons: list[tuple[str, str]]
    """A topic and what is to be said of it, in the order in which the programs decide."""
    service: Service | None = None
    """Also if this caller is out of its scope."""
    in_scope: bool = True
    goes_to: str | None = None
    """The one backend, if affinity has it fixed or there is no other."""
    backends: list[BackendShare] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "asked": self.asked,
            "outcome": self.outcome,
            "caller": self.caller._asdict(),
            "reasons": [{"topic": topic, "text": text} for topic, text in self.reasons],
            "service": self.service and self.service.model_dump(mode="json"),
            "in_scope": self.in_scope,
            "goes_to": self.goes_to,
            "backends": [asdict(each) for each in self.backends],
        }


def explain(asked: PlainFrontend, caller: Caller, facts: Facts) -> Explanation:
    """See the module's head."""
    shown = format_frontend(*asked)
    reasons: list[tuple[str, str]] = []
    outside = _outside(caller, facts, asked[2])
    if outside:
        reasons.append(outside)
    found, scope = _choose(caller, facts)
    if found is None:
        reasons.append(("service", f"there is none at {shown}: the call goes where it says"))
        return Explanation(shown, "untouched", caller, reasons)
    service = _model(found.service)
    reasons.append(("service", _named(found.service)))
    if scope:
        reasons.append(("scope", scope))
    v4 = ":" not in asked[0] and (asked[0] != "node" or _has_v4(service))
    shares = [*_shares(service, found, v4)]
    usable = [each for each in shares if each.share]
    refused = bool(service.source_ranges and caller.netns and not found.admitted)
    if service.source_ranges:
        has = "may have an address" if not caller.netns else "has an address"
        text = f"its network namespace {'has no address' if refused else has}"
        reasons.append(("source ranges", f"{text} in {service.source_ranges}"))
    goes_to = None
    if not refused and service.affinity:
        goes_to, text = _stuck(service, found)
        reasons.append(("affinity", text))
    if not usable:
        reasons.append(("backends", _none_usable(service, v4)))
    elif len(usable) == 1 and not refused:
        goes_to = goes_to or usable[0].address
    if usable:
        reasons.append(("algorithm", _algorithm(service)))
    outcome: Outcome = "translated"
    if outside or scope:
        outcome = "untouched"
    elif refused or not (usable or goes_to):
        outcome = "refused"
    return Explanation(
        shown,
        outcome,
        caller,
        reasons,
        service,
        not scope,
        goes_to if outcome == "translated" else None,
        shares,
    )


def _outside(caller: Caller, facts: Facts, protocol: str) -> tuple[str, str] | None:
    """Why no program of ours decides about this call at all."""
    if facts.attached is None:
        return "attached", "nothing is attached: no call is looked at"
    if protocol not in facts.protocols:
        return "protocols", f"attached for {', '.join(facts.protocols)} alone"
    if caller.cgroup is not None and not _is_below(caller.cgroup, facts.attached):
        return "cgroup", f"{caller.cgroup} is not below {facts.attached}, which is attached"
    for path in facts.exempt:
        if caller.cgroup is not None and _is_below(caller.cgroup, path):
            return "exempt", f"{path} is exempt"
    return None


def _choose(caller: Caller, facts: Facts) -> tuple[Found | None, str]:
    """The service that answers, or else the first that would if the caller were in its scope."""
    first: tuple[Found | None, str] = (None, "")
    for found in (facts.exact, facts.node):
        if found is None:
            continue
        scope = _out_of_scope(found.service, caller, facts)
        if not scope:
            return found, ""
        first = first if first[0] else (found, scope)
    return first


def _out_of_scope(service: PlainService, caller: Caller, facts: Facts) -> str:
    host_only, subtree = service[8], service[9]
    if host_only and not facts.knows_host:
        return "out of it: for the host alone, which this kernel cannot tell (Linux 5.14 can)"
    if host_only and not caller.netns:
        return "perhaps out of it: for the host's network namespace alone, and whose is not known"
    if host_only and not facts.is_host:
        return "out of it: for the host's network namespace alone"
    if subtree and caller.cgroup is not None and not _is_below(caller.cgroup, subtree[0]):
        return f"out of it: for tasks below {subtree[0]} alone"
    return ""


def _is_below(cgroup: str, above: str) -> bool:
    above = above.rstrip("/")
    return cgroup.rstrip("/") == above or cgroup.startswith(f"{above}/")


def _model(service: PlainService) -> Service:
    from .plain import model_of

    return model_of(service)


def _named(service: PlainService) -> str:
    address, port, protocol, name, owner = service[:5]
    frontend = format_frontend(address, port, protocol)
    return f"{frontend}, {name} (owner {owner})" if name else f"{frontend} (owner {owner})"


def _has_v4(service: Service) -> bool:
    return any(backend.family == 4 for backend in service.backends)


def _shares(service: Service, found: Found, v4: bool) -> Iterator[BackendShare]:
    family = 4 if v4 else 6
    mine = [b.family == family for b in service.backends]
    all_slots = sum(s for s, is_mine in zip(found.shares, mine, strict=True) if is_mine)
    for backend, slots, is_mine, active in zip(
        service.backends, found.shares, mine, found.active, strict=True
    ):
        why = None
        if not is_mine:
            slots, why = 0, f"IPv{backend.family}, and the address asked for is IPv{family}"
        elif backend.state == "down":
            why = "down"
        elif backend.state == "draining":
            why = "draining, but all that is left" if slots else "draining: nothing new"
        elif not backend.weight:
            why = "weight 0: nothing new"
        share = slots / all_slots if slots else 0.0
        yield BackendShare(backend.address, backend.weight, backend.state, share, active, why)


def _none_usable(service: Service, v4: bool) -> str:
    if not service.backends:
        return "it has none: refused"
    family = [b for b in service.backends if b.family == (4 if v4 else 6)]
    if not family:
        return f"none is IPv{4 if v4 else 6}: refused"
    return "none is usable: refused"


def _stuck(service: Service, found: Found) -> tuple[str | None, str]:
    lasts = service.affinity_ms / 1000
    if found.stuck_to and found.stuck_to[1] < lasts:
        backend, ago = found.stuck_to
        left = format_duration(max(1, int(lasts - ago)) * 1000)
        return backend, f"this client goes to {backend}, and would for {left} more"
    return None, f"none is remembered of this client; what is chosen now is, for {service.affinity}"


_ALGORITHMS = {
    "random": "random, by weight",
    "maglev": "maglev: always the same one for a network namespace and cgroup",
    "least-conn": "least-conn: of two drawn, the one with fewer connections open",
}


def _algorithm(service: Service) -> str:
    return _ALGORITHMS[service.algorithm]


# ---- who calls ----


def caller(from_cgroup: str | None, root: str, cookie: Callable[[str | None], int]) -> Caller:
    """This process, or a task of a cgroup; ``cookie`` tells that of a network namespace's path.

    Raises `InvalidInput` for what is no directory.
    """
    if from_cgroup is None:
        return Caller(own_cgroup(root), cookie(None))
    path = os.path.realpath(from_cgroup)
    if not os.path.isfile(f"{path}/cgroup.procs"):  # noqa: PTH113 - as short
        raise InvalidInput("no cgroup v2 directory", object=from_cgroup)
    spaces: dict[int, int] = {}
    for pid in _tasks(path):
        try:
            spaces.setdefault(os.stat(f"/proc/{pid}/ns/net").st_ino, pid)  # noqa: PTH116
        except OSError:  # noqa: PERF203 - it has ended
            continue
    for pid in spaces.values():
        try:
            return Caller(path, cookie(f"/proc/{pid}/ns/net"), pid, len(spaces))
        except InvalidInput:  # noqa: PERF203 - the same
            continue
    return Caller(path, 0, None, 0)


def own_cgroup(root: str, proc: str = "/proc/self/cgroup") -> str | None:
    """This process's, as a path; None where it cannot be seen from here."""
    with open(proc, encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123 - short
        for line in lines:
            number, _, path = line.rstrip("\n").split(":", 2)
            if number == "0" and root and not path.startswith("/.."):
                return root + path.rstrip("/") if path != "/" else root
    return None


def _tasks(path: str) -> Iterator[int]:
    """Of the cgroup and all below it."""
    for directory, _, _ in os.walk(path):
        try:
            with open(f"{directory}/cgroup.procs", encoding="ascii") as file:  # noqa: PTH123
                yield from (pid for line in file if (pid := int(line)))
        except OSError:  # noqa: PERF203 - a threaded one, or it is gone
            continue
