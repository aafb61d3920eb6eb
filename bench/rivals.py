# SPDX-License-Identifier: Apache-2.0
"""The same servers and clients directly, through hostreach, and through kube-proxy's rules."""

from __future__ import annotations

import os
import random
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from kernel.harness import Box, kernel, rawbpf
from kernel.harness.host import cgroups, move_to

import hostreach
from hostreach import Service

from .nodes import Client, clients
from .rules import IPTABLES, NFTABLES, RIVALS, Balanced, Rival
from .traffic import (
    KINDS,
    OWN,
    PROCESSOR,
    Kind,
    TrafficLibrary,
    client_sockets,
    own_server,
    serve,
)

DIRECT, EMPTY, HOSTREACH = "direct", "empty programs", "hostreach"
BACKENDS = ("10.0.0.1", "10.0.0.2")  # of each service
_CALLED = 1_000  # services, at random places; fewer if there are fewer
_BATCH = 50  # connections before the next contestant's turn
_WARM = 5  # of them do not count: the one before left its own in the caches
COUNTED = _BATCH - _WARM
_LOAD_SECONDS = 600


class Effort(NamedTuple):
    """How long it may take."""

    sizes: Sequence[int]
    turns: int  # of each contestant, at each size, with _BATCH connections
    rounds: int  # of each kind of traffic
    seconds: float  # of each contestant in a round
    rivals: Sequence[str] = (IPTABLES.text, NFTABLES.text)


FULL = Effort((1, 1_000, 10_000, 30_000), 200, 15, 0.04)
QUICK = Effort((1, 10_000), 60, 7, 0.02)
SMOKE = Effort((10,), 1, 1, 0.001)


class Contestant(NamedTuple):
    """A way to the servers: where its clients are, and whom they call."""

    text: str
    client: Client
    cgroup: Path
    direct: bool = False


class Result(NamedTuple):
    """All that was measured at one number of services, by contestant."""

    services: int
    load_seconds: dict[str, float]
    latency: dict[str, list[int]]  # nanoseconds of each connection
    rates: dict[tuple[str, str], list[float]]  # by kind and contestant, in each round


def measure(effort: Effort, say: Callable[[str], None]) -> list[Result]:
    """At each size in a sandbox of its own."""
    library = TrafficLibrary()
    results = []
    for size in effort.sizes:
        with closing(Box()) as box:
            results.append(_measure(box, library, size, effort, say))
    return results


def here(effort: Effort) -> list[Rival]:
    """Those that are wanted and installed."""
    return [RIVALS[name] for name in effort.rivals if RIVALS[name].is_here()]


def _measure(
    box: Box, library: TrafficLibrary, size: int, effort: Effort, say: Callable[[str], None]
) -> Result:
    called = random.Random(size).sample(range(size), min(size, _CALLED))
    counted = _services(size, {*called})
    # In the middle: one that comes first or last would be found sooner or later than most.
    services = [*counted[: size // 2], *map(_service_of, KINDS), *counted[size // 2 :]]
    rivals = here(effort)
    took: dict[str, float] = {}
    with ExitStack() as stack:
        ways = stack.enter_context(clients(box, 1 + len(rivals)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostreach-bench-")))
        serve(box, BACKENDS, folder)
        plain = ways[0]
        began = time.monotonic()
        node = stack.enter_context(hostreach.open(str(box.pin)))
        node.services.apply(map(_modelled, services))
        took[HOSTREACH] = time.monotonic() - began
        node.attach(cgroup=str(box.cgroup))
        (empty,) = stack.enter_context(cgroups(box.bare, "empty"))
        for hook in kernel.hooks():
            rawbpf.attach(empty, hook)
        contestants = [
            Contestant(DIRECT, plain, box.bare, direct=True),
            Contestant(EMPTY, plain, empty, direct=True),
            Contestant(HOSTREACH, plain, box.cgroup),
        ]
        for rival, client in zip(rivals, ways[1:], strict=True):
            say(f"{rival.text}: loading rules of {size:,} services")
            began = time.monotonic()
            client.run(*rival.command_line, text="\n".join(rival.rules(services)) + "\n")
            took[rival.text] = time.monotonic() - began
            contestants.append(Contestant(rival.text, client, box.bare))
        say(f"{size:,} services: connecting, then traffic")
        targets = [(counted[n].host, counted[n].port) for n in called]
        latency, rates = box.call(
            _compete, box, library, contestants, targets, effort, timeout=_LOAD_SECONDS
        )
        return Result(size, took, latency, rates)


def _services(size: int, called: set[int]) -> list[Balanced]:
    """Those that are counted."""
    made = []
    for n in range(size):
        host = f"10.{96 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}"
        backends = [(each, OWN) for each in BACKENDS]
        name = f"bench-{n % 50}/service-{n}:http"
        made.append(Balanced(name, host, 80, "tcp", backends, called=n in called))
    return made


def _service_of(kind: Kind) -> Balanced:
    backends = [(each, kind.port) for each in BACKENDS]
    host = f"10.95.0.{KINDS.index(kind) + 1}"
    return Balanced(f"bench/{kind.function}", host, 80, kind.protocol, backends)


def _modelled(service: Balanced) -> Service:
    backends = [f"{host}:{port}" for host, port in service.backends]
    frontend = f"{service.host}:{service.port}/{service.protocol}"
    return Service.of(frontend, *backends, name=service.name.partition(":")[0])


def _compete(
    box: Box,
    library: TrafficLibrary,
    contestants: Sequence[Contestant],
    targets: Sequence[tuple[str, int]],
    effort: Effort,
) -> tuple[dict[str, list[int]], dict[tuple[str, str], list[float]]]:
    """In a process of the box's, which goes to and fro."""
    os.sched_setaffinity(0, [PROCESSOR])
    box.enter(bare=True)
    listener, echo = own_server(socket.SOCK_STREAM), own_server(socket.SOCK_DGRAM)
    # Whom one comes after decides what is in the caches: no order is the same twice.
    latency: dict[str, list[int]] = {each.text: [] for each in contestants}
    orders = random.Random(effort.turns)
    for turn in range(effort.turns):
        for each in orders.sample(contestants, len(contestants)):
            latency[each.text] += _connect(library, each, targets, turn, listener)
    rates: dict[tuple[str, str], list[float]] = {}
    for _ in range(effort.rounds):
        for kind in KINDS:
            server = echo if kind.protocol == "udp" else listener
            to = _service_of(kind)
            for each in orders.sample(contestants, len(contestants)):
                _enter(each)
                called = to.backends if each.direct else [(to.host, to.port)]
                rate = library.rate(kind, called, server, effort.seconds)
                rates.setdefault((kind.text, each.text), []).append(rate)
    return latency, rates


def _enter(contestant: Contestant) -> None:
    move_to(contestant.cgroup)
    contestant.client.enter()


def _connect(
    library: TrafficLibrary,
    contestant: Contestant,
    targets: Sequence[tuple[str, int]],
    turn: int,
    listener: socket.socket,
) -> list[int]:
    """One batch, to other services each turn."""
    _enter(contestant)
    sockets = client_sockets(_BATCH)
    numbers = range(turn * _BATCH, (turn + 1) * _BATCH)
    if contestant.direct:
        called = [(BACKENDS[n % len(BACKENDS)], OWN) for n in numbers]
    else:
        called = [targets[n % len(targets)] for n in numbers]
    try:
        return library.connect_accept(sockets, called, listener)[_WARM:]
    finally:
        for each in sockets:
            each.close()
