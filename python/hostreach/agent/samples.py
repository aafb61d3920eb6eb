# SPDX-License-Identifier: Apache-2.0
"""What `Metrics` tells of an agent's state: read when it is asked for, in the web server's thread.

How many series there can be has a bound: of single frontends, and of objects that were left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric

from hostreach.errors import HostreachError, NotFound
from hostreach.node import Node
from hostreach.syntax import quote, split_frontend

from .busiest import Busiest
from .metrics import counters, gauge, gauges, version

if TYPE_CHECKING:
    from .following import FileAgent
    from .keeper import Keeper
    from .loop import Agent

NAMED_MAX = 100
"""Objects that are named because something of them was left out."""
BACKENDS_EACH = 20
"""Backends that are named of one service: those with most connections."""
SELDOM = 200
"""Frontends are chosen again after so many times as long as it took: half a percent of the time."""
RESTARTS = (
    *("connection", "ended", "expired", "failure"),
    *("forbidden", "server", "throttled", "unauthorized"),
)
"""Why a watch or list ends, as `hostreach.sources.kubernetes.watch` says it."""


def keeper_samples(keeper: Keeper) -> Iterator[Metric]:
    """How well any agent does."""
    yield version()
    programmer, synced = keeper.programmer, keeper.synced_at
    yield gauge(
        "owed_services", "Services that could not be written or removed yet", programmer.owing
    )
    yield gauge(
        "conflicting_services",
        "Addresses and ports left alone, for they belong to another owner",
        len(programmer.conflicts),
    )
    yield gauge(
        "last_sync_age_seconds",
        "Since the tables were last known to be in step; -1 if they never were",
        -1 if synced is None else time.monotonic() - synced,
    )


def file_samples(agent: FileAgent) -> Iterator[Metric]:
    """How well the agent does that follows files."""
    yield gauge("files", "Files of services that there are", agent.files.count)
    yield gauge(
        "files_wrong",
        "Files and paths of which what was right before is used, or nothing",
        len(agent.files.problems),
    )
    yield gauge(
        "services_without_cgroup", "Services whose cgroup is not there (yet)", len(agent.waiting)
    )


def check_samples(agent: FileAgent, busiest: Busiest) -> Iterator[Metric]:
    """What health checks came to, by itself for as many frontends as those have room for."""
    health = agent.desk.health
    yield gauge("checked_services", "Services whose backends are checked", agent.desk.count)
    yield gauge("checks", "Backends that are checked, each way of checking once", len(health))
    yield gauge(
        "checks_failing", "Those that fail", sum(h.passes is False for h in health.values())
    )
    yield gauge(
        "services_all_down", "Services all of whose backends fail", len(agent.desk.all_down)
    )
    watched = agent.desk.watched
    rows = [(str(frontend), each) for frontend, each in watched.items()]
    shown = {*busiest.shown}  # these first: they have the other metrics, too
    rows.sort(key=lambda row: (row[0] not in shown, row[1].service.name or "~", row[0]))
    values: dict[tuple[str, ...], float] = {}
    for frontend, each in rows[: busiest.most]:
        found = [(health[t].passes, b) for b, t in each.targets.items() if t in health]
        # None counts as passing; those that fail are named first.
        for passes, backend in sorted(found, key=lambda f: (f[0] is not False, f[1]))[
            :BACKENDS_EACH
        ]:
            values[each.service.name or "", frontend, backend] = float(passes is not False)
    yield gauges(
        "backend_passes",
        f"Whether a backend passes its checks, up to {BACKENDS_EACH} for each frontend",
        ("service", "frontend", "backend"),
        values,
    )


def cluster_samples(agent: Agent) -> Iterator[Metric]:
    """How well the Kubernetes agent does."""
    source = agent.source
    services, slices = source.state.counts
    yield gauge("cluster_services", "Services that are watched", services)
    yield gauge("cluster_endpoint_slices", "EndpointSlices that are watched", slices)
    yield gauge("queue_length", "Changes that were not taken in yet", source.queued)
    yield gauge("pending_services", "Services to be worked out", source.state.pending)
    yield gauge(
        "source_ranged_services",
        "Services whose source ranges are enforced, for which clients are looked for",
        len(source.state.ranged),
    )
    if agent.pods:
        yield gauge("exempt_pods", "Pods that see no service", len(agent.pods.settled))
        yield gauge(
            "exempt_pods_missing",
            "Pods that are to see no service, but have no cgroup here (yet)",
            agent.pods.missing,
        )
    watching = {kind: watcher.state for kind, watcher in source.watchers.items()}
    yield gauges(
        "watch_connected",
        "Whether the API server is being listened to",
        ("kind",),
        {(kind,): float(state.connected) for kind, state in watching.items()},
    )
    yield counters(
        "watch_restarts",
        "Watches and lists that ended, by why",
        ("kind", "reason"),
        {
            (kind, reason): float(count)
            for kind, state in watching.items()
            for reason, count in {**dict.fromkeys(RESTARTS, 0), **state.restarts}.items()
        },
    )
    yield gauge(
        "health_check_ports_failed",
        "healthCheckNodePorts that somebody else listens on",
        len(agent.health.failed),
    )
    yield from _left_out(agent)


def _left_out(agent: Agent) -> Iterator[Metric]:
    problems = [*agent.source.state.problems.copy().items()]
    counted = Counter((kind, p.reason) for (kind, _), found in problems for p in found)
    yield gauges(
        "left_out",
        "What of objects was left out, by why",
        ("kind", "reason"),
        {key: float(count) for key, count in counted.items()},
    )
    named = sorted((kind, key, found[0].reason) for (kind, key), found in problems)
    yield gauges(
        "left_out_object",
        f"Objects of which something was left out, up to {NAMED_MAX} of them",
        ("kind", "object", "reason"),
        {(k, quote(key)[1:-1], why): 1.0 for k, key, why in named[:NAMED_MAX]},
    )


def _readable(readable: bool) -> Metric:
    return gauge("tables_readable", "Whether there are tables, and they could be read", readable)


def _choose(node: Node, busiest: Busiest) -> None:
    """Whom to tell of: not each time, where there are so many that it takes its time."""
    began = time.monotonic()
    if busiest.most and began >= busiest.due:
        frontends = [row.frontend for row in node.services.rows()]
        traffic = node.traffic([split_frontend(each) for each in frontends])
        busiest.choose(frontends, [sum(each) for each in traffic], began)
        busiest.due = began + SELDOM * (time.monotonic() - began)


def table_samples(node: Node, busiest: Busiest) -> Iterator[Metric]:
    """How full the tables are, and what those frontends did that are used most."""
    try:
        status = node.status()
        _choose(node, busiest)
        active = {}
        for frontend in busiest.shown:
            with suppress(NotFound):  # it is gone
                active[frontend] = node.services.inspect(frontend)
        traffic = dict(zip(active, node.traffic([*map(split_frontend, active)]), strict=True))
    except HostreachError:  # they are another version's, or somebody has the lock for long
        yield _readable(False)
        return
    yield _readable(status.services is not None)
    usage = {"services": status.services, "backends": status.backends, "slots": status.slots}
    used = {name: each for name, each in usage.items() if each is not None}
    yield gauges(
        "table_used", "Entries in use", ("table",), {(n,): float(u.used) for n, u in used.items()}
    )
    yield gauges(
        "table_capacity", "Room", ("table",), {(n,): float(u.capacity) for n, u in used.items()}
    )
    yield gauges(
        "table_pressure",
        "Entries in use, as a part of the room",
        ("table",),
        {(n,): u.used / max(1, u.capacity) for n, u in used.items()},
    )
    yield gauge("attached", "Whether the programs are attached", bool(status.cgroup))
    for name, text, value in (
        ("translations", "Connections and sends that a service answered", status.translations),
        ("refusals", "Those refused, for want of a backend or by source ranges", status.refusals),
        ("overflowed", "Sockets that had more services than they remember", status.overflowed),
        ("storage_failed", "Sockets that got no storage", status.storage_failed),
        ("unremembered", "Sockets that remember nothing", status.unremembered),
    ):
        yield counters(name, text, (), {(): float(value)})
    labels = ("service", "frontend")
    named = {(each.service.name or "", at): each for at, each in active.items()}
    for i, name in enumerate(("translations", "refusals")):
        yield counters(
            f"service_{name}",
            f"The same of single frontends, up to {busiest.most}: those that are used most",
            labels,
            {key: float(traffic[key[1]][i]) for key in named},
        )
    yield gauges(
        "service_backends",
        "Backends of the same frontends, by state",
        (*labels, "state"),
        {
            (*key, state): float(sum(b.state == state for b in each.service.backends))
            for key, each in named.items()
            for state in ("active", "draining", "down")
        },
    )
    yield gauges(
        "backend_connections",
        f"Connections open to backends, up to {BACKENDS_EACH} for each of the same frontends",
        (*labels, "backend"),
        {
            (*key, backend.address): float(count)
            for key, each in named.items()
            for backend, count in sorted(
                zip(each.service.backends, each.active, strict=True),
                key=lambda pair: (-pair[1], pair[0].address),
            )[:BACKENDS_EACH]
        },
    )
