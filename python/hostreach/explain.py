# SPDX-License-Identifier: Apache-2.0
"""What a connect from somewhere would do, and why: `Node.explain`.

The order is the programs' own (bpf/service.bpf.h): the exact address before the node's ports, who
may use the service, who is let in, who is remembered, and what is drawn. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .caller import Caller
from .plain import PlainFrontend, PlainService
from .syntax import NODE, format_duration, format_frontend

if TYPE_CHECKING:
    from .models import Service

Outcome = Literal["translated", "refused", "untouched"]
Lost = Literal["gone", "anew"]
"""Of a cgroup: it is not there, or another one by the same path."""


class Found(NamedTuple):
    """One service that could be meant, and what the tables know of this caller there."""

    service: PlainService
    admitted: bool
    """By its source ranges, if it has any."""
    stuck_to: tuple[str, float] | None
    """The backend of the caller's affinity, and seconds since it was there."""
    shares: list[int]
    active: list[int]
    lost: Lost | None = None
    """What became of the cgroup that it is for."""


class Facts(NamedTuple):
    """What the tables and hooks say at one moment."""

    attached: str | None
    """The cgroup."""
    protocols: tuple[str, ...]
    exact: Found | None
    node: Found | None
    """The ``node`` service of this port, if the address is, or may be, one of the node's."""
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
    certain: bool = True
    """Whether it is so for all tasks; else their network namespace decides, and there is none."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "asked": self.asked,
            "outcome": self.outcome,
            "certain": self.certain,
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
    found, scope, doubted = _choose(asked, caller, facts)
    if found is None:
        reasons.append(("service", f"there is none at {shown}: the call goes where it says"))
        return Explanation(shown, "untouched", caller, reasons)
    service = _model(found.service)
    reasons.append(("service", _named(found.service)))
    if scope or doubted:
        reasons.append(("scope", scope or doubted))
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
        goes_to, text = _stuck(service, found, caller)
        reasons.append(("affinity", text))
    returns = bool(service.affinity and not caller.namespaces and len(shares) > len(usable))
    if not usable:
        reasons.append(("backends", _none_usable(service, v4)))
    elif len(usable) == 1 and not refused and not returns:
        goes_to = goes_to or usable[0].address
    if usable:
        reasons.append(("algorithm", _algorithm(service)))
    outcome: Outcome = "translated"
    if outside or scope:
        outcome = "untouched"
    elif refused or not (usable or goes_to):
        outcome = "refused"
    ranged = bool(service.source_ranges and not caller.namespaces)
    certain = bool(outside) or not (doubted or ranged or (returns and not usable))
    if not certain:
        text = "that of the task decides, and there is none"
        reasons.append(("namespace", text))
    return Explanation(
        shown,
        outcome,
        caller,
        reasons,
        service,
        not scope,
        goes_to if outcome == "translated" else None,
        shares,
        certain,
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


def _choose(asked: PlainFrontend, caller: Caller, facts: Facts) -> tuple[Found | None, str, str]:
    """The service that answers, or else the first that would if the caller were in its scope.

    Why it is out of it; and of which one it is not known whether the caller is.
    """
    first: Found | None = None
    why = doubted = ""
    for found in (facts.exact, facts.node):
        if found is None:
            continue
        scope = _out_of_scope(asked, found, caller, facts)
        if scope.startswith(_PERHAPS):
            doubted = f"perhaps {_named(found.service)} instead, for the host's namespace alone"
        if not scope:
            return found, "", doubted
        first, why = (first, why) if first else (found, scope)
    return first, why, doubted


_PERHAPS = "perhaps "
_LOST = {
    "gone": "which is not there",
    "anew": "which was made anew since: so nobody is in the one that is meant; write it again",
}


def _out_of_scope(asked: PlainFrontend, found: Found, caller: Caller, facts: Facts) -> str:
    service = found.service
    host_only, subtree = service[8], service[9]
    if subtree and found.lost:
        return f"out of it: for tasks below {subtree[0]} alone, {_LOST[found.lost]}"
    if subtree and caller.cgroup is not None and not _is_below(caller.cgroup, subtree[0]):
        return f"out of it: for tasks below {subtree[0]} alone"
    if host_only and not facts.knows_host:
        return "out of it: for the host alone, which this kernel cannot tell (Linux 5.14 can)"
    if (host_only or _on_loopback(service, asked)) and not caller.netns:
        return f"{_PERHAPS}out of it: for the host's network namespace alone"
    if host_only and not facts.is_host:
        return "out of it: for the host's network namespace alone"
    return ""


def _on_loopback(service: PlainService, asked: PlainFrontend) -> bool:
    """As a NodePort, which nobody but the host has there."""
    return service[0] == NODE and is_loopback(asked[0])


def is_loopback(address: str) -> bool:
    """Of 127.0.0.0/8, or ::1."""
    return address == "::1" or address.startswith("127.")


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


def _stuck(service: Service, found: Found, caller: Caller) -> tuple[str | None, str]:
    if not caller.namespaces:
        return None, f"a client that was here within {service.affinity} goes to its backend again"
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
