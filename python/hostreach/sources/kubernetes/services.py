# SPDX-License-Identifier: Apache-2.0
"""A Service and its EndpointSlices as entries of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address
from typing import NamedTuple

from hostreach.models import SOURCE_RANGES_MAX
from hostreach.plain import PlainBackend, PlainService
from hostreach.rules import BACKENDS_MAX
from hostreach.syntax import NODE, format_frontend

from .endpoints import LOCAL, READY, better, choose
from .intake import Family, KubeService, Port, Problem, Slice, family_of

OWNER = "kubernetes"
TOGETHER_MAX = 1 << 18
"""Backends of all entries of one Service: as many as tables have room for unless told otherwise.

Endpoints count once for each port and address, so one object, which no quota tells from others,
would fill the memory of every node.
"""


@dataclass(frozen=True)
class Rules:
    """What a node's owner decides about its services."""

    protocols: frozenset[str] = frozenset(("tcp", "udp"))
    node_ports: bool = True
    external_ips: bool = True
    source_ranges: bool = True
    """Whether this kernel can tell who is in them."""
    host_addresses: tuple[str, ...] = ()
    """Of this node, as its object has them."""


class _Outside(NamedTuple):
    """A VIP beside the cluster IPs, and who may use it."""

    vip: str
    ranges: str | None = None
    host_only: bool = False
    refused: bool = False


def entries(
    service: KubeService, slices: Sequence[Slice], rules: Rules
) -> tuple[list[PlainService], list[Problem]]:
    """One entry for each address and port that clients on this node may use, and what is amiss.

    A port without endpoints has its entries all the same: it refuses.
    """
    found: list[PlainService] = []
    problems: list[Problem] = []
    together = 0
    for entry in _each(service, slices, rules, problems):
        together += len(entry[6])
        if together > TOGETHER_MAX:
            first = format_frontend(*entry[:3])
            many = f"its entries have more than {TOGETHER_MAX} backends together"
            problems.append(Problem("endpoints", f"{many}: {first} and what follows is left out"))
            break
        found.append(entry)
    return _once(found), problems


def _each(
    service: KubeService, slices: Sequence[Slice], rules: Rules, problems: list[Problem]
) -> Iterator[PlainService]:
    outside = _outside(service, rules, problems)
    families = {family_of(vip) for vip in service.cluster_ips}
    for port in service.ports:
        if port.protocol not in rules.protocols:
            continue
        by_family = {family: endpoints_of(port, family, slices) for family in sorted(families)}
        everyone: dict[Family, list[PlainBackend]] = {}
        for family, candidates in by_family.items():
            everyone[family] = _backends(service, port, candidates, False, problems)
        for vip in service.cluster_ips:
            family = family_of(vip)
            inside = everyone[family]
            if service.internal_local:
                inside = _backends(service, port, by_family[family], True, problems)
            yield _entry(service, port, vip, port.port, inside)
        for each in outside:
            backends = [] if each.refused else everyone[family_of(each.vip)]
            scope = (each.host_only, each.ranges)
            yield _entry(service, port, each.vip, port.port, backends, *scope)
        if port.node_port and rules.node_ports:
            both = _cut_each([everyone[family] for family in sorted(everyone)], problems)
            yield _entry(service, port, NODE, port.node_port, both)


def _entry(
    service: KubeService,
    port: Port,
    vip: str,
    number: int,
    backends: list[PlainBackend],
    host_only: bool = False,
    ranges: str | None = None,
) -> PlainService:
    name = f"{service.key}:{port.name}" if port.name else service.key
    affinity = service.affinity_ms
    at = (vip, number, port.protocol)
    return (*at, name, OWNER, "random", backends, affinity, host_only, None, None, ranges)


def endpoints_of(port: Port, family: Family, slices: Iterable[Slice]) -> dict[str, int]:
    """A port's endpoints with their flags; its number may be another one in each slice."""
    found: dict[str, int] = {}
    for piece in slices:
        if piece.family != family:
            continue
        for name, protocol, number in piece.ports:
            if name != port.name or protocol != port.protocol:
                continue
            form = f"[%s]:{number}" if family == 6 else f"%s:{number}"
            here = {form % a: flags for a, flags in zip(piece.addresses, piece.flags, strict=True)}
            if len(here) != len(piece.addresses) or not found.keys().isdisjoint(here):
                for address, flags in zip(piece.addresses, piece.flags, strict=True):
                    text = form % address
                    found[text] = better(found[text], flags) if text in found else flags
            else:
                found.update(here)
    return found


def local_ready(slices: Iterable[Slice]) -> int:
    """How many endpoints on this node are ready, whatever their ports.

    One that has an address of each family, which slices do not say, is counted once.
    """
    both = LOCAL | READY
    ready: dict[Family, set[str]] = {4: set(), 6: set()}
    for piece in slices:
        ready[piece.family].update(
            address
            for address, flags in zip(piece.addresses, piece.flags, strict=True)
            if flags & both == both
        )
    return max(map(len, ready.values()))


def _backends(
    service: KubeService,
    port: Port,
    endpoints: dict[str, int],
    local: bool,
    problems: list[Problem],
) -> list[PlainBackend]:
    usable, draining, far = choose(endpoints, local=local)
    found = [(text, 1, "active") for text in usable]
    # A client with affinity would be kept on a draining backend, which Kubernetes forbids.
    if not service.affinity_ms:
        found += [(text, 1, "draining") for text in draining]
        # Connected UDP sockets are reset when their backend goes, and that other ones are nearer
        # now is no reason to: it still serves. TCP's go on by themselves.
        if port.protocol == "udp":
            found += [(text, 1, "draining") for text in far]
    return _cut(found, problems)


def _cut(backends: list[PlainBackend], problems: list[Problem]) -> list[PlainBackend]:
    if len(backends) > BACKENDS_MAX:
        problems.append(
            Problem("endpoints", f"{len(backends)} endpoints, of which {BACKENDS_MAX} are used")
        )
    return backends[:BACKENDS_MAX]


def _cut_each(families: list[list[PlainBackend]], problems: list[Problem]) -> list[PlainBackend]:
    """Of each family as many as there is room for, and at least its part of it."""
    part = BACKENDS_MAX // max(1, len(families))
    spare = BACKENDS_MAX - sum(min(len(each), part) for each in families)
    kept: list[PlainBackend] = []
    for each in families:
        more = min(spare, max(0, len(each) - part))
        kept += each[: part + more]
        spare -= more
    count = sum(map(len, families))
    if len(kept) < count:
        problems.append(Problem("endpoints", f"{count} endpoints, of which {len(kept)} are used"))
    return kept


def _outside(service: KubeService, rules: Rules, problems: list[Problem]) -> list[_Outside]:
    found = [_Outside(vip) for vip in service.external_ips if rules.external_ips]
    left: dict[str, None] = {}
    for vip in service.balancer_ips:
        family = family_of(vip)
        ranges = _ranges(service, family)
        if family in service.shut:
            found.append(_Outside(vip, refused=True))
        elif not ranges or not ranges[0].prefixlen:
            found.append(_Outside(vip))
        elif not rules.source_ranges:
            left["this kernel does not tell clients apart (Linux 5.14 does)"] = None
        elif len(ranges) <= SOURCE_RANGES_MAX:
            found.append(_Outside(vip, ranges=",".join(map(str, ranges))))
        else:
            mine = [ip_address(text) for text in rules.host_addresses if family_of(text) == family]
            allowed = any(address in network for address in mine for network in ranges)
            found.append(_Outside(vip, host_only=True, refused=not allowed))
            few = f"at most {SOURCE_RANGES_MAX} source ranges can be enforced there"
            left[f"{few}, not {len(ranges)}"] = None
    for why in left:
        who = " for pods" if rules.source_ranges else ""
        message = f"its load balancer addresses are left alone{who}: {why}"
        problems.append(Problem("source-ranges", message))
    return found


def _ranges(service: KubeService, family: Family) -> list[IPv4Network] | list[IPv6Network]:
    """Those of a family, in order, with neighbours made one; everyone is the first alone."""
    texts = [text for text in service.source_ranges if family_of(text) == family]
    if family == 6:
        return [*collapse_addresses(map(IPv6Network, texts))]
    return [*collapse_addresses(map(IPv4Network, texts))]


def _once(found: list[PlainService]) -> list[PlainService]:
    """A VIP that is cluster IP, external IP and load balancer address stands as the first."""
    return [*{(entry[0], entry[1], entry[2]): entry for entry in reversed(found)}.values()][::-1]
