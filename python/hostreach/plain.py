# SPDX-License-Identifier: Apache-2.0
"""Services as the compiled module takes and gives them: tuples of plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from .models import Frontend, Service

PlainFrontend: TypeAlias = tuple[str, int, str]
"""Address or "node", port, "tcp" or "udp"."""
PlainBackend: TypeAlias = tuple[str, int, str]
"""Endpoint, weight, "active", "draining" or "down"."""
PlainSubtree: TypeAlias = tuple[str, int, int]
"""A cgroup's path, id and depth below the root."""
PlainService: TypeAlias = tuple[
    str,
    int,
    str,
    str | None,
    str,
    str,
    list[PlainBackend],
    int,
    bool,
    PlainSubtree | None,
    str | None,
    str | None,
]
"""Address or "node", port, protocol, name, owner, algorithm, backends, affinity in milliseconds
(0: none), whether for the host alone, for which cgroup alone, on_removal and source ranges."""


def plain_frontend(frontend: Frontend) -> PlainFrontend:
    """For a look-up."""
    return frontend.address, frontend.port, frontend.protocol


def plain_service(service: Service, cgroup: Callable[[str], tuple[int, int]]) -> PlainService:
    """For writing; ``cgroup`` tells a cgroup's id and depth from its path."""
    subtree = None
    if service.from_cgroup is not None:
        subtree = (service.from_cgroup, *cgroup(service.from_cgroup))
    at = service.frontend
    return (
        at.address,
        at.port,
        at.protocol,
        service.name,
        service.owner,
        service.algorithm,
        [(backend.address, backend.weight, backend.state) for backend in service.backends],
        service.affinity_ms,
        service.host_only,
        subtree,
        service.on_removal,
        service.source_ranges,
    )


def frontend_model(plain: PlainFrontend) -> Frontend:
    """The inverse of `plain_frontend`."""
    from .models import Frontend

    address, port, protocol = plain
    return Frontend.built({"address": address, "port": port, "protocol": protocol})


def model_of(plain: PlainService) -> Service:
    """From what the table holds, which was validated when it was written."""
    from .models import Backend, Service
    from .syntax import format_duration

    name, owner, algorithm, backends, affinity, host, tree, removal, ranges = plain[3:]
    build = Backend.built
    return Service.built(
        {
            "frontend": frontend_model(plain[:3]),
            "name": name,
            "owner": owner,
            "algorithm": algorithm,
            "affinity": format_duration(affinity) if affinity else None,
            "host_only": host,
            "from_cgroup": tree[0] if tree else None,
            "source_ranges": ranges,
            "on_removal": removal,
            "backends": tuple(
                build({"address": address, "weight": weight, "state": state})
                for address, weight, state in backends
            ),
        }
    )
