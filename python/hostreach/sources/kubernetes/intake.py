# SPDX-License-Identifier: Apache-2.0
"""One decoded object, checked and made small: what the state keeps of it.

An endpoint becomes its address and one byte, so 250,000 of them take 20 MB. Whatever cannot be
used is left out and reported as a `Problem`, the rest of the object stands: the API server is
trusted to be who it is, not to be right.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from hostreach.errors import InvalidInput
from hostreach.syntax import NAME_MAX, Protocol, quote

from . import objects
from .endpoints import (
    FOR_NODES,
    FOR_ZONES,
    LOCAL,
    READY,
    SERVING,
    TERMINATING,
    THIS_NODE,
    THIS_ZONE,
)
from .sloppy import read_address, read_network

PORTS_MAX = 4096
"""Of one object. Nobody needs so many, and a hostile API may send more."""
ENTRIES_MAX = 16_384
"""Of one Service, each port at each of its addresses: twice the ports that it may have at two
cluster IPs. Its author alone says how many external IPs there are."""
EXEMPT = "hostreach.io/exempt"
"""The annotation of pods that are to see no service."""
AFFINITY_SECONDS = 10800
AFFINITY_SECONDS_MAX = 86400

Family = Literal[4, 6]


class Place(NamedTuple):
    """Where this node is, for what is local and near."""

    node: str
    zone: str | None = None


class Problem(NamedTuple):
    """What of an object was left out, and why."""

    reason: str
    """One word, for metrics."""
    message: str


class Port(NamedTuple):
    name: str
    protocol: Protocol
    port: int
    node_port: int


class KubeService(NamedTuple):
    """A Service that a proxy must look at; VIPs are canonical, and of its own families."""

    key: str
    """``namespace/name``."""
    age: tuple[str, str, str]
    """When it was made, then its name and uid: the smallest is the oldest."""
    ports: tuple[Port, ...]
    cluster_ips: tuple[str, ...]
    external_ips: tuple[str, ...]
    balancer_ips: tuple[str, ...]
    affinity_ms: int
    internal_local: bool
    health_port: int
    source_ranges: tuple[str, ...]
    shut: frozenset[Family] = frozenset()
    """Families whose source ranges cannot be read, not one of them."""
    problems: tuple[Problem, ...] = ()


class Slice(NamedTuple):
    """An EndpointSlice that belongs to a Service."""

    key: str
    service: str
    family: Family
    ports: tuple[tuple[str, str, int], ...]
    """Name, "tcp" or "udp", port."""
    addresses: tuple[str, ...]
    flags: bytes
    """One byte for each address; see `endpoints`."""
    changed: float | None = None
    """When what it shows began to be so, in seconds since 1970."""
    problems: tuple[Problem, ...] = ()


class ExemptPod(NamedTuple):
    """A pod of this node that runs, or is about to, and is to see no service."""

    key: str
    uid: str
    """As its cgroup is named."""


def key_of(metadata: objects.Metadata | objects.PodMetadata) -> str:
    """``namespace/name``."""
    return f"{metadata.namespace}/{metadata.name}"


def family_of(address: str) -> Family:
    return 6 if ":" in address else 4


def take_service(service: objects.Service) -> KubeService | None:
    """None for one that is none of a proxy's business; raises `InvalidInput`."""
    spec, labels = service.spec, service.metadata.labels
    if (labels and labels.proxy_name is not None) or spec.type == "ExternalName":
        return None
    cluster_ips = spec.cluster_ips or ([spec.cluster_ip] if spec.cluster_ip else [])
    if not cluster_ips or cluster_ips[0] in ("", "None") or spec.cluster_ip == "None":
        return None
    key = _checked_key(service.metadata)
    problems: list[Problem] = []
    vips = _addresses(cluster_ips, "clusterIP", problems)
    families = {family_of(vip) for vip in vips}
    ingress = (service.status and service.status.load_balancer) or objects.LoadBalancer()
    balancers = [
        entry.ip
        for entry in ingress.ingress or ()
        if entry.ip and entry.ip_mode in (None, "VIP") and spec.type == "LoadBalancer"
    ]
    external = _addresses(spec.external_ips or (), "external IP", problems)
    balanced = _addresses(balancers, "load balancer address", problems)
    balancer_ips = tuple(vip for vip in balanced if family_of(vip) in families)
    external_ips = tuple(vip for vip in external if family_of(vip) in families)
    ports, affinity = _ports(spec, problems), _affinity(spec)
    room = max(0, ENTRIES_MAX // max(1, len(ports)) - len(vips) - 1)  # one is for node ports
    if (count := len(balancer_ips) + len(external_ips)) > room:
        what = f"{count} external IPs and load balancer addresses"
        problems.append(Problem("address", f"{what} of {len(ports)} ports: {room} are used"))
        balancer_ips = balancer_ips[:room]
        external_ips = external_ips[: room - len(balancer_ips)]
    ranges, shut = _ranges(spec, {family_of(vip) for vip in balancer_ips}, problems)
    local = spec.type == "LoadBalancer" and spec.external_policy == "Local"
    return KubeService(
        key=key,
        age=(service.metadata.created or "~", key, service.metadata.uid),
        ports=ports,
        cluster_ips=vips,
        external_ips=external_ips,
        balancer_ips=balancer_ips,
        affinity_ms=affinity * 1000,
        internal_local=spec.internal_policy == "Local",
        health_port=(spec.health_port or 0) if local else 0,
        source_ranges=ranges,
        shut=shut,
        problems=tuple(problems),
    )


def take_pod(pod: objects.Pod) -> ExemptPod | None:
    """None for one that is to see services, or that has ended; raises `InvalidInput`."""
    said = pod.metadata.annotations
    if said is None or said.exempt in (None, "false"):
        return None
    if said.exempt != "true":
        raise InvalidInput(f'{EXEMPT} is "true" or "false", not {quote(said.exempt or "")}')
    if pod.status is not None and pod.status.phase in ("Succeeded", "Failed"):
        return None
    uid = pod.metadata.uid
    if said.static and re.fullmatch("[0-9a-f]{32}", said.static):
        uid = said.static  # a hash, which no uid looks like: nobody can name another's pod by it
    if not re.fullmatch("[0-9A-Za-z-]{8,64}", uid):
        raise InvalidInput(f"{quote(uid)} is no uid")
    return ExemptPod(_checked_key(pod.metadata), uid)


def _checked_key(metadata: objects.Metadata | objects.PodMetadata) -> str:
    key = key_of(metadata)
    for part in (metadata.namespace, metadata.name):
        if not part or not part.isprintable() or " " in part or "/" in part:
            raise InvalidInput(f"{quote(part)} is no name")
    if len(key.encode()) > NAME_MAX - 64:  # a port's name comes behind it
        raise InvalidInput("its name is too long")
    return key


def _addresses(texts: Sequence[str], what: str, problems: list[Problem]) -> tuple[str, ...]:
    """Each once, canonical and in order."""
    good: dict[str, None] = {}
    for text in texts:
        try:
            address = read_address(text)
            if address.startswith("127.") or address == "::1":
                raise InvalidInput("a loopback address cannot be used", object=address)
            good[address] = None
        except InvalidInput as error:  # noqa: PERF203 - there are few
            problems.append(Problem("address", f"{what}: {error}"))
    return tuple(good)


def _ports(spec: objects.ServiceSpec, problems: list[Problem]) -> tuple[Port, ...]:
    ports: dict[tuple[int, Protocol], Port] = {}
    if len(spec.ports or ()) > PORTS_MAX:
        raise InvalidInput(f"it has {len(spec.ports or ())} ports; at most {PORTS_MAX} are taken")
    for each in spec.ports or ():
        protocol = _protocol(each.protocol)
        name = each.name or ""
        shown = f"port {each.port} ({name or 'without a name'})"
        if protocol is None:
            reason = "sctp" if each.protocol == "SCTP" else "protocol"
            problems.append(Problem(reason, f"{shown}: no {quote(each.protocol or '')[1:-1]} here"))
        elif not each.port:
            problems.append(Problem("port", f"{shown}: 0 is no port"))
        elif (each.port, protocol) in ports:
            problems.append(Problem("port", f"{shown}: it is given twice"))
        elif not name.isprintable() or " " in name or len(name.encode()) > 63:
            problems.append(Problem("port", f"port {each.port}: {quote(name)} is no name"))
        else:
            exposed = each.node_port if spec.type in ("NodePort", "LoadBalancer") else 0
            ports[each.port, protocol] = Port(name, protocol, each.port, exposed or 0)
    return tuple(ports.values())


def _protocol(text: str | None) -> Protocol | None:
    if text in (None, "", "TCP"):
        return "tcp"
    return "udp" if text == "UDP" else None


def _affinity(spec: objects.ServiceSpec) -> int:
    if spec.affinity != "ClientIP":
        return 0
    client = spec.affinity_config and spec.affinity_config.client_ip
    seconds = client.timeout if client and client.timeout is not None else AFFINITY_SECONDS
    if not 0 < seconds <= AFFINITY_SECONDS_MAX:
        raise InvalidInput(
            f"its affinity's timeout is {seconds} s, not 1 to {AFFINITY_SECONDS_MAX}"
        )
    return seconds


def _ranges(
    spec: objects.ServiceSpec, families: set[Family], problems: list[Problem]
) -> tuple[tuple[str, ...], frozenset[Family]]:
    """The readable ones, and the ``families`` that had some of which none is.

    To leave out a range is to refuse its clients, which is the safe side. To leave out all of a
    family would be to let in everyone: that is refused to everyone instead.
    """
    if spec.type != "LoadBalancer":
        return (), frozenset()
    ranges: list[str] = []
    bad: list[str] = []
    meant: set[Family] = set()
    for text in spec.source_ranges or ():
        try:
            ranges.append(read_network(text))
        except InvalidInput as error:  # noqa: PERF203 - there are few
            bad.append(str(error))
            meant |= _families_meant(text)
    shut = frozenset(meant & families - {family_of(network) for network in ranges})
    if bad:
        more = f" ({len(bad)} such)" if len(bad) > 1 else ""
        who = " and ".join(f"IPv{family}" for family in sorted(shut))
        closed = f"; its {who} load balancer addresses refuse everyone" if shut else ""
        problems.append(Problem("source-range", f"source range {bad[0]}{more}{closed}"))
    return tuple(ranges), shut


def _families_meant(text: str) -> set[Family]:
    """What looks like neither may be either."""
    signs: tuple[tuple[str, Family], ...] = ((".", 4), (":", 6))
    return {family for sign, family in signs if sign in text} or {4, 6}


def take_slice(piece: objects.EndpointSlice, place: Place) -> Slice | None:
    """None for one that is none of a proxy's business; raises `InvalidInput`."""
    labels = piece.metadata.labels
    if labels is None or not labels.service_name or labels.headless is not None:
        return None
    if piece.address_type not in ("IPv4", "IPv6"):
        return None
    if len(piece.ports or ()) > PORTS_MAX:
        raise InvalidInput(f"it has {len(piece.ports or ())} ports; at most {PORTS_MAX} are taken")
    family: Family = 4 if piece.address_type == "IPv4" else 6
    bad: Counter[str] = Counter()
    addresses, flags = [], bytearray()
    for endpoint in piece.endpoints or ():
        try:
            addresses.append(_endpoint_address(endpoint, family))
            flags.append(_flags(endpoint, place))
        except InvalidInput as error:  # noqa: PERF203 - the others are to be taken
            bad[str(error)] += 1
    problems = [
        Problem("endpoint", why if count == 1 else f"{why} ({count} such)")
        for why, count in bad.most_common(1)
    ]
    return Slice(
        key=key_of(piece.metadata),
        service=f"{piece.metadata.namespace}/{labels.service_name}",
        family=family,
        ports=tuple(
            (port.name, protocol, port.port)
            for port in piece.ports or ()
            if port.name is not None and port.port and (protocol := _protocol(port.protocol))
        ),
        addresses=tuple(addresses),
        flags=bytes(flags),
        changed=_changed(piece.metadata),
        problems=tuple(problems),
    )


def _endpoint_address(endpoint: objects.Endpoint, family: Family) -> str:
    """Its first address alone: the API promises that all are the same endpoint."""
    if not endpoint.addresses:
        raise InvalidInput("an endpoint has no address")
    address = read_address(endpoint.addresses[0])
    if family_of(address) != family:
        raise InvalidInput("an endpoint is not of the slice's family", object=address)
    if address.startswith("127.") or address == "::1":
        raise InvalidInput("an endpoint cannot be a loopback address", object=address)
    if address.startswith("169.254."):
        raise InvalidInput("an endpoint cannot be a link-local address", object=address)
    return address


def _flags(endpoint: objects.Endpoint, place: Place) -> int:
    flags = READY | SERVING
    if (found := endpoint.conditions) is not None:
        ready = found.ready is not False
        serving = found.serving is not False
        flags = ready * READY | serving * SERVING | bool(found.terminating) * TERMINATING
    if endpoint.node is not None and endpoint.node == place.node:
        flags |= LOCAL
    if (hints := endpoint.hints) is not None:
        if hints.nodes:
            flags |= FOR_NODES
            if any(node.name == place.node for node in hints.nodes):
                flags |= THIS_NODE
        if hints.zones:
            flags |= FOR_ZONES
            if place.zone and any(zone.name == place.zone for zone in hints.zones):
                flags |= THIS_ZONE
    return flags


def _changed(metadata: objects.Metadata) -> float | None:
    text = metadata.annotations and metadata.annotations.changed
    if not text:
        return None
    whole, _, rest = text.removesuffix("Z").partition(".")
    try:
        # Nine digits of a second are more than Python 3.10 reads.
        return datetime.fromisoformat(f"{whole}.{rest[:6]:0<6}+00:00").timestamp()
    except ValueError:
        return None
