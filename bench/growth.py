# SPDX-License-Identifier: Apache-2.0
"""What more services, and more backends of each, cost: calls, changes, and memory."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from kernel.harness import Box, rawbpf
from kernel.harness.bpf import pinned_maps

import hostreach
from hostreach import Service
from hostreach.options import Capacities

from . import hooks, latency
from .hooks import TCP, UDP, Call, Cost
from .latency import Latency
from .load import Library, Shape, more_addresses
from .memcg import Group, memory_group

SIZED = ("services", "records", "slots", "backends", "active", "translations", "refusals")
"""The maps that the capacities decide on."""
CALLS = (
    Call("connect", "UDP, one socket", "connect_reused", UDP, 1, 4000),
    Call("connect", "TCP, new sockets", "connect_new", TCP, 0, 1000),
    Call("sendmsg", "200 sockets", "send_reused", UDP, 200, 4000),
)
COLD_CALLS = (
    *CALLS[:2],
    Call("sendmsg", "a socket for each", "send_reused", UDP, 5_000, 4000),
)
PROTOCOLS = {"tcp": TCP, "udp": UDP}
CALLED = 500
"""Services of each protocol; as many as there are of it in 1,000 services of both."""
CHANGES = 200
_SECONDS = 300


class Effort(NamedTuple):
    """How long it may take."""

    services: Sequence[int]  # of `AXIS_BACKENDS` each; even numbers, and 1
    backends: Sequence[int]  # of `AXIS_SERVICES` each
    rounds: int
    connections: int


AXIS_BACKENDS, AXIS_SERVICES = 10, 100
FULL = Effort((1, 10, 100, 1_000, 10_000, 50_000, 60_000), (1, 10, 100, 1_000), 9, 2_000)
QUICK = Effort((1, 1_000, 50_000), (1, 1_000), 3, 500)
SMOKE = Effort((1, 10), (2,), 1, 100)


class Filled(NamedTuple):
    """What a process needed to fill the tables and to change single backends."""

    models_bytes: int
    node_bytes: int
    fill_ns: int
    changes: list[int]


class Size(NamedTuple):
    """All of one shape."""

    shape: Shape
    capacities: Capacities
    sized_bytes: int  # of `SIZED`
    fixed_bytes: int  # of the other maps
    charged_bytes: int | None  # for all of them, by the memory cgroup; None: it does not count
    filled: Filled
    latencies: list[Latency]
    costs: list[Cost]
    cold: list[Cost]  # each call to another service, all of them in turn; none if they are few


def measure(effort: Effort, say: Callable[[str], None]) -> tuple[list[Size], list[Size]]:
    """Along one axis and along the other."""
    library = Library()
    done: dict[Shape, Size] = {}

    def of(shape: Shape) -> Size:
        if shape not in done:
            number = shape.services * len(shape.protocols)
            say(f"{number:,} services of {shape.backends:,} backends")
            done[shape] = _measure(shape, library, effort)
        return done[shape]

    def at(services: int, backends: int) -> Size:
        if services > 1:
            return of(Shape(services // 2, backends, (4,)))  # each for TCP, and for UDP
        tcp, udp = (of(Shape(1, backends, (4,), (protocol,))) for protocol in PROTOCOLS)
        return udp._replace(latencies=tcp.latencies + udp.latencies, costs=tcp.costs + udp.costs)

    return (
        [at(services, AXIS_BACKENDS) for services in effort.services],
        [at(AXIS_SERVICES, backends) for backends in effort.backends],
    )


def _measure(shape: Shape, library: Library, effort: Effort) -> Size:
    services = shape.services * len(shape.protocols)
    backends = services * shape.backends
    # Room for changes, as a node has it; what is full waits for what is given up.
    room = Capacities(max(services, 1_024), max(2 * backends, 16_384), max(2 * backends, 65_536))
    with closing(Box()) as box, hostreach.open(str(box.pin), capacities=room) as node:
        with memory_group(box.bare) as group:
            before = group.charged() if group else 0
            filled = _in_new_process(_fill, box.pin, room, shape, group)
            charged = group.charged() - before if group else None
        sizes = {name: each["bytes_memlock"] for name, each in pinned_maps(box.pin).items()}
        sized = sum(sizes[name] for name in SIZED)
        box.call(more_addresses)
        node.attach(cgroup=str(box.cgroup))
        connections = effort.connections
        timed = box.call(latency.measure, box, library, connections, shape, timeout=_SECONDS)
        # After that: the way without hostreach is the way without anything.
        for hook in rawbpf.ATTACH_TYPES:
            rawbpf.attach(box.bare, hook)

        def costs(calls: Sequence[Call], called: int) -> list[Cost]:
            kinds = {PROTOCOLS[protocol] for protocol in shape.protocols}
            served = [call for call in calls if call.kind in kinds]
            arguments = (box, library, effort.rounds, shape, served, called)
            return box.call(hooks.measure, *arguments, timeout=_SECONDS)

        warm = costs(CALLS, CALLED)
        cold = costs(COLD_CALLS, shape.services) if shape.services > CALLED else []
        fixed = sum(sizes.values()) - sized
        return Size(shape, room, sized, fixed, charged, filled, timed, warm, cold)


def _in_new_process(function: Callable[..., Filled], *arguments: object) -> Filled:
    """Not a fork, which would begin with the memory that this process has given back."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result(_SECONDS)


def _fill(pin: Path, room: Capacities, shape: Shape, group: Group | None) -> Filled:
    if group:
        group.enter()
    began = _resident()
    made = shape.made()
    gc.freeze()  # so many models would be walked by each collection from now on
    models = _resident() - began
    with hostreach.open(str(pin), capacities=room) as node:
        then = time.perf_counter_ns()
        node.services.apply(made)
        took = time.perf_counter_ns() - then
        held = _resident() - began - models
        return Filled(models, held, took, _change(node, made))


def _change(node: hostreach.Node, services: Sequence[Service]) -> list[int]:
    """A backend of each goes and comes back; one that has no other stays."""
    took = []
    for n in range(CHANGES):
        service = services[n * 7919 % len(services)]
        frontend, old = str(service.frontend), service.backends[0].address
        for action in (node.services.remove_backend, node.services.add_backend):
            then = time.perf_counter_ns()
            action(frontend, old)
            took.append(time.perf_counter_ns() - then)
    return took


def _resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this process has no memory")
