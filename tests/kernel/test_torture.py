# SPDX-License-Identifier: Apache-2.0
"""Clients without pause beside a writer without pause, and a writer that is killed.

Each service's backends listen on a port of its own, and answer with it: so a client knows at once
when it got to another service's backend.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest

import hostreach
from hostreach import Service
from hostreach.node import Capacities, Node

from .harness import SCALE, Box, kernel, linux, scaled
from .harness.box import environment
from .harness.bpf import attached
from .harness.compiled import c_program
from .harness.host import attach_inside

LONG = os.environ.get("HOSTREACH_LONG") == "1"
SECONDS = 60.0 if LONG else max(3.0, SCALE)
KILLS = 200 if LONG else 10
CLIENTS = 4
SIZES = Capacities(services=16, backends=96, slots=16384)
EACH = 8  # backends that a service may have


class Place(NamedTuple):
    """A service's frontend, how clients reach it, and what may happen to it."""

    frontend: str
    host: str
    port: int
    comes_and_goes: bool = False
    may_be_empty: bool = False
    resets: bool = False

    @property
    def protocol(self) -> str:
        return self.frontend.rpartition("/")[2]

    @property
    def allowed(self) -> str:
        errors = {"ENETUNREACH": self.comes_and_goes, "ECONNREFUSED": self.may_be_empty}
        # What a call says depends on which one first meets a socket that was ended.
        ended = ("ECONNABORTED", "ENOTCONN", "EDESTADDRREQ")
        errors |= dict.fromkeys(ended, self.resets)
        return "+".join(name for name, is_allowed in errors.items() if is_allowed) or "none"


PLACES = [
    Place("10.96.0.10:80/tcp", "10.96.0.10", 80),
    Place("10.96.0.10:80/udp", "10.96.0.10", 80),
    Place("[fd00:96::a]:80/tcp", "fd00:96::a", 80),
    Place("[fd00:96::a]:80/udp", "fd00:96::a", 80),
    Place("node:30080/tcp", "10.0.0.1", 30080),
    Place("node:30080/udp", "10.0.0.1", 30080),
    Place("10.96.0.11:80/tcp", "10.96.0.11", 80, comes_and_goes=True),
    Place("10.96.0.11:80/udp", "10.96.0.11", 80, comes_and_goes=True),
    Place("[fd00:96::b]:81/udp", "fd00:96::b", 81, comes_and_goes=True),
    Place("10.96.0.12:80/tcp", "10.96.0.12", 80, may_be_empty=True),
    Place("10.96.0.12:80/udp", "10.96.0.12", 80, comes_and_goes=True, may_be_empty=True),
    Place("10.96.0.13:80/udp", "10.96.0.13", 80, comes_and_goes=True, resets=True),
]


def answer(place: Place) -> int:
    """The port of its backends, and of no other's."""
    return 8000 + PLACES.index(place)


def endpoints(place: Place) -> list[str]:
    form = "[fd00::{}]:{}" if place.frontend.startswith("[") else "10.0.0.{}:{}"
    return [form.format(n, answer(place)) for n in range(2, 2 + EACH)]


def operation(number: int) -> tuple[Place, Service | None]:
    """What the writer does next: the same for the same number, whoever asks."""
    chance = random.Random(number)
    place = chance.choice(PLACES)
    if place.comes_and_goes and chance.random() < 0.3:
        return place, None
    # A datagram that is lost would be waited for: see kernel.refuses_at_once().
    waits = place.protocol == "udp" and not kernel.refuses_at_once()
    if place.may_be_empty and not waits and chance.random() < 0.2:
        return place, service(place, number, [])
    some = chance.sample(endpoints(place), chance.randint(1, EACH))
    states = [chance.choice(["active", "active", "draining", "down"]) for _ in some]
    states[0] = chance.choice(["active", "draining"])  # one that is usable
    weights = [chance.randint(1, 9), *(chance.randint(0, 9) for _ in some[1:])]
    backends = [f"{b},weight={w},state={s}" for b, w, s in zip(some, weights, states, strict=True)]
    chance.shuffle(backends)
    return place, service(place, number, backends)


def service(place: Place, number: int, backends: Sequence[str]) -> Service:
    chance = random.Random(~number)
    return Service.of(
        place.frontend,
        *backends,
        name=f"change/{number}",
        algorithm=chance.choice(["random", "maglev", "least-conn"]),
        affinity=chance.choice([None, "2ms", "1h"]),
        on_removal="reset" if place.resets else "keep",
    )


def perform(node: Node, place: Place, wanted: Service | None) -> None:
    if wanted is None:
        node.services.remove(place.frontend, if_exists=True)
    else:
        node.services.set(wanted)


Model = dict[str, Service]


def after(model: Model, place: Place, wanted: Service | None) -> Model:
    rest = {frontend: each for frontend, each in model.items() if frontend != place.frontend}
    return rest if wanted is None else {**rest, place.frontend: wanted}


def contents(node: Node) -> Model:
    return {str(each.frontend): each for each in node.services.list()}


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    """All services in place, with all of their backends; servers behind them."""
    with hostreach.open(str(box.pin), capacities=SIZES) as opened:
        attach_inside(box, opened)
        opened.services.apply(service(place, 0, endpoints(place)) for place in PLACES)
        yield opened


@contextmanager
def program(box: Box, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    def enter() -> None:
        linux.die_with_parent()
        box.enter()

    process = subprocess.Popen(
        [c_program("torture.c"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=enter,  # noqa: PLW1509 - the tests have no threads
        env=environment(),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def traffic(box: Box) -> Iterator[list[dict[str, Any]]]:
    """Clients without pause while the body runs; then what they came to."""
    servers = [f"{end}/{place.protocol}" for place in PLACES for end in endpoints(place)]
    targets = []
    for place in PLACES:
        kinds = ["tcp"] if place.protocol == "tcp" else ["udp-connected", "udp-unconnected"]
        for kind in kinds:
            fields = (kind, place.host, place.port, answer(place), place.allowed)
            targets.append(",".join(map(str, fields)))
    reports: list[dict[str, Any]] = []
    with ExitStack() as stack:
        server = stack.enter_context(program(box, "serve", *servers))
        assert server.stdout
        assert server.stdout.readline() == "ready\n"
        clients = [
            stack.enter_context(program(box, "call", str(seed), *targets))
            for seed in range(CLIENTS)
        ]
        yield reports
        for client in clients:
            assert client.poll() is None, "a client ended by itself"
        for client in clients:
            said, _ = client.communicate(timeout=scaled(30))
            reports.append(json.loads(said))


def check_traffic(reports: list[dict[str, Any]]) -> int:
    """No connection went wrong, each kind of client got somewhere; returns how many got there."""
    assert len(reports) == CLIENTS
    assert [wrong for report in reports for wrong in report["wrong"]] == []
    targets = [target for report in reports for target in report["targets"]]
    assert not any(target["forbidden"] for target in targets)
    assert not any("EPERM" in target["errors"] for target in targets)
    by_name: dict[str, int] = {}
    for target in targets:
        by_name[target["name"]] = by_name.get(target["name"], 0) + target["right"]
    assert all(by_name.values()), by_name
    return sum(by_name.values())


def check_nothing_is_lost(node: Node) -> None:
    """What the tables are said to hold fits, to the last service, backend and slot."""
    active = [n for each in node.services for n in node.services.active(each.frontend)]
    assert not any(active), "connections are counted, and there are none"
    node.services.apply([], prune=True)
    status = node.status()
    assert [each.used for each in (status.services, status.backends, status.slots) if each] == [
        0
    ] * 3
    assert SIZES.services
    assert SIZES.backends
    assert SIZES.slots
    each = SIZES.backends // SIZES.services
    heaviest = [4096] * 3 + [SIZES.slots - 3 * 4096 - (SIZES.services - 4) * each]
    heaviest += [each] * (SIZES.services - 4)
    filling = [
        Service.of(
            f"10.97.0.{n}:80/tcp",
            f"10.0.{n}.1:80,weight={slots - each + 1}",
            *(f"10.0.{n}.{b}:80" for b in range(2, 1 + each)),
        )
        for n, slots in enumerate(heaviest)
    ]
    node.services.apply(filling)
    status = node.status()
    for usage in (status.services, status.backends, status.slots):
        assert usage
        assert usage.used == usage.capacity
    assert node.services.list() == filling
    with pytest.raises(hostreach.errors.TableFull):
        node.services.add(Service.of("10.97.1.0:80/tcp"))


def pins(box: Box) -> list[str]:
    return sorted(str(path.relative_to(box.pin)) for path in box.pin.rglob("*"))


def test_one_writer_as_fast_as_it_can(box: Box, node: Node) -> None:
    model, number = contents(node), 0
    before = pins(box), attached(box.cgroup)
    with traffic(box) as reports:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            number += 1
            place, wanted = operation(number)
            perform(node, place, wanted)
            model = after(model, place, wanted)
    reached = check_traffic(reports)
    print(f"{reached} connections and exchanges beside {number} changes")
    assert number > 50 / SCALE
    assert contents(node) == model
    assert (pins(box), attached(box.cgroup)) == before
    check_nothing_is_lost(node)


def test_a_writer_that_is_killed(box: Box, node: Node) -> None:
    """At any moment; what was acknowledged is there, or the one change more that was under way."""
    acknowledged = mmap.mmap(-1, 8)  # shared with the writer

    def write(first: int) -> None:
        with hostreach.open(str(box.pin)) as own:
            number = first
            while True:
                perform(own, *operation(number))
                number += 1
                acknowledged[:8] = struct.pack("=Q", number)

    model, number = contents(node), 1
    acknowledged[:8] = struct.pack("=Q", number)
    before = pins(box), attached(box.cgroup)
    chance = random.Random(11)
    halfway = 0
    with traffic(box) as reports:
        for _ in range(KILLS):
            writer = box.start(write, number, bare=True)
            time.sleep(scaled(chance.uniform(0.02, 0.2)))
            writer.stop()
            (done,) = struct.unpack("=Q", acknowledged[:8])
            while number < done:
                model = after(model, *operation(number))
                number += 1
            found = contents(node)
            if found != model:
                model = after(model, *operation(number))
                number += 1
                halfway += 1
            assert found == model, f"after change {number - 1}"
    reached = check_traffic(reports)
    print(
        f"{reached} connections and exchanges, {KILLS} kills, {number} changes, {halfway} halfway"
    )
    assert number > KILLS
    assert (pins(box), attached(box.cgroup)) == before
    check_nothing_is_lost(node)
