# SPDX-License-Identifier: Apache-2.0
"""`trace`: a line for each call that is translated or refused, and none for others."""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Capacities, Service, errors
from hostreach.tracing import Traced, Tracer, Wanted

from .harness import Box, kernel, scaled
from .harness.clients import FAMILIES, KINDS, Family, exchange, outcome, protocol_of
from .harness.host import HOST_V4, attach_inside, give_addresses, opened
from .harness.rawmap import RawMap
from .harness.traced import (
    EMPTY,
    EMPTY_VIP,
    FRONTEND,
    LISTENED,
    OTHER,
    OTHER_VIP,
    SERVER,
    VIP,
    add_services,
    call,
    is_listened,
)

if TYPE_CHECKING:
    from hostreach.node import Node


@pytest.fixture(autouse=True)
def tracing() -> None:
    kernel.need(kernel.traces(), "ring buffer for programs")


@pytest.fixture
def services(box: Box, node: Node) -> Node:
    add_services(box, node)
    return node


def connect(times: int) -> None:
    """Only that: a hook runs before anybody could answer."""
    for _ in range(times):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(VIP)


def heard(tracer: Tracer) -> list[Traced]:
    """All that came until now."""
    found = tracer.read(0)
    while more := tracer.read(0):
        found += more
    return found


def test_who_asked_for_what_and_got_it(box: Box, services: Node) -> None:
    before = time.time()
    with closing(services.trace()) as tracer:
        pid, _ = box.call(call, VIP)
        (seen,) = heard(tracer)
        assert before <= seen.time <= time.time()
        assert (seen.pid, seen.thread) == (pid, pid)
        with open("/proc/self/comm", encoding="ascii") as file:  # noqa: PTH123 - one line
            assert seen.command == file.read().strip()
        assert str(box.cgroup).endswith(seen.cgroup or "-")
        assert (seen.service, seen.name, seen.asked) == (FRONTEND, "shop/web:http", FRONTEND)
        assert (seen.backend, seen.verdict, seen.reason) == (SERVER, "translated", None)
        assert seen.pod is None
        assert box.call(call, EMPTY_VIP)[1] == "ECONNREFUSED"
        (refused,) = heard(tracer)
        assert (refused.service, refused.backend) == (EMPTY, None)
        assert (refused.verdict, refused.reason) == ("refused", "no-backend")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_as_many_as_are_counted(box: Box, node: Node, family: Family, kind: str) -> None:
    protocol = protocol_of(kind)
    server = family.endpoint(family.backend(2), 8053)
    box.serve(f"{server}/{protocol}")
    frontend = f"{family.endpoint(family.vip(), 53)}/{protocol}"
    node.services.add(Service.of(frontend, server))
    vip = family.sockaddr(family.vip(), 53)
    with closing(node.trace()) as tracer:
        for _ in range(3):
            box.call(exchange, family, kind, vip)
        box.call(exchange, family, kind, family.sockaddr(family.backend(2), 8053))  # no service
        node.services.set_backend(frontend, f"{server},state=down")
        box.call(outcome, exchange, family, kind, vip)
        found = Counter((each.verdict, each.asked, each.backend) for each in heard(tracer))
    status = node.status()
    assert found == {
        ("translated", frontend, server): status.translations,
        ("refused", frontend, None): status.refusals,
    }
    assert status.translations >= 3
    assert status.refusals


def test_why_not(box: Box, services: Node) -> None:
    kernel.need(kernel.knows_the_host(), "network namespaces told apart by processes too")
    services.services.set(Service.of(FRONTEND, SERVER, source_ranges="198.51.100.0/24"))
    with closing(services.trace()) as tracer:
        assert box.call(call, VIP)[1] == "ECONNREFUSED"
        (seen,) = heard(tracer)
    assert (seen.verdict, seen.reason) == ("refused", "not-admitted")


def test_a_node_port(box: Box) -> None:
    """What was asked for is one of the node's addresses; the service is none of them."""
    give_addresses(box)
    with opened(box) as node:
        attach_inside(box, node)
        box.serve(f"{SERVER}/tcp")
        node.services.add(Service.of("node:30080/tcp", SERVER, name="np"))
        with closing(node.trace()) as tracer:
            box.call(call, (HOST_V4, 30080))
            (seen,) = heard(tracer)
    assert (seen.service, seen.name) == ("node:30080/tcp", "np")
    assert (seen.asked, seen.backend) == (f"{HOST_V4}:30080/tcp", SERVER)


def test_filters(box: Box, services: Node) -> None:
    wanted = {
        "service": Wanted(service=OTHER),
        "pid": Wanted(pid=os.getpid()),  # which calls nobody
        "cgroup": Wanted(cgroup=str(box.cgroup)),
        "below": Wanted(cgroup=str(box.cgroup.parent)),
        "elsewhere": Wanted(cgroup=str(box.bare)),
        "refused": Wanted(verdict="refused"),
        "translated": Wanted(verdict="translated", service=FRONTEND),
    }
    tracers = {name: services.trace(each) for name, each in wanted.items()}
    for vip in (VIP, OTHER_VIP, EMPTY_VIP):
        box.call(call, vip)
    found = {name: {each.service for each in heard(each)} for name, each in tracers.items()}
    for each in tracers.values():
        each.close()
    assert found == {
        "service": {OTHER},
        "pid": set(),
        "cgroup": {FRONTEND, OTHER, EMPTY},
        "below": {FRONTEND, OTHER, EMPTY},
        "elsewhere": set(),
        "refused": {EMPTY},
        "translated": {FRONTEND},
    }
    pending = box.start(call_when_told, VIP)
    with closing(services.trace(Wanted(pid=pending.pid))) as tracer:
        os.kill(pending.pid, signal.SIGUSR1)
        pending.result()
        assert [each.pid for each in heard(tracer)] == [pending.pid]


def call_when_told(vip: tuple[str, int]) -> None:
    signal.sigwait([signal.SIGUSR1])
    call(vip)


@pytest.fixture(autouse=True)
def blocked() -> Iterator[None]:
    """Before any child is made, or it might be told before it waits."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_nobody_listens_nothing_is_done(box: Box, services: Node) -> None:
    """The flag that programs look at is down before and after."""
    assert not is_listened(box)
    tracer = services.trace()
    assert is_listened(box)
    box.call(call, VIP)
    assert is_listened(box)
    other = services.trace()
    tracer.close()
    assert is_listened(box)
    other.close()
    assert not is_listened(box)


def test_so_many_at_once(box: Box, services: Node) -> None:
    tracers = [services.trace() for _ in range(8)]
    with pytest.raises(errors.Refused, match="8 listen already"):
        services.trace()
    box.call(call, VIP)
    assert [len(heard(each)) for each in tracers] == [1] * 8
    tracers.pop().close()
    tracers.append(services.trace())
    for each in tracers:
        each.close()


def test_one_that_was_killed(box: Box, services: Node) -> None:
    """Programs stop telling it once it has not read for ten seconds; then its place is free."""
    tracer = services.trace()
    with (
        RawMap.pinned(box.pin / "listening") as listening,
        RawMap.pinned(box.pin / "flags") as flags,
    ):
        listener = listening[0]
        seen_ns = struct.unpack_from("=Q", listener)[0]
        assert abs(time.monotonic_ns() - seen_ns) < scaled(10) * 1e9
        before = struct.pack("=Q", seen_ns - int(11e9))
        listening[0] = before + listener[8:]
        box.call(call, VIP)
        assert is_listened(box)  # by others, for all that programs know
        flags[LISTENED] = before
    box.call(call, VIP)
    assert not is_listened(box)
    # Not killed after all: it hears again from when it reads.
    assert not tracer.read(0)
    box.call(call, VIP)
    assert len(heard(tracer)) == 1
    with RawMap.pinned(box.pin / "listening") as listening:
        listening[0] = struct.pack("=Q", 1) + listening[0][8:]
    with closing(services.trace()) as successor:  # who has its place now
        box.call(call, VIP)
        assert len(heard(successor)) == 1
        assert not tracer.read(0)  # which finds out, and takes another
        box.call(call, VIP)
        assert len(heard(successor)) == 1
        assert len(heard(tracer)) == 1


def test_a_fork_that_lets_go_of_it(box: Box, services: Node) -> None:
    tracer = services.trace()
    child = os.fork()
    if not child:
        tracer.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    box.call(call, VIP)
    assert len(heard(tracer)) == 1
    tracer.close()


def test_lost_are_counted(box: Box, node: Node) -> None:
    node.services.add(Service.of("10.96.0.10:80/udp", "10.0.0.2:9"))
    with closing(node.trace(size=4096)) as tracer:
        box.call(connect, 200)
        found = heard(tracer)
        assert 20 < len(found) < 200
        assert tracer.lost == 200 - len(found)


def test_programs_replaced_meanwhile(
    box: Box, services: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever replaces them: they tell the same listener."""
    with closing(services.trace()) as tracer:
        off, _ = kernel.variants()
        for without in off:
            kernel.switch_off(monkeypatch, without)
            assert services.attach(cgroup=str(box.cgroup)).changes
            box.call(call, VIP)
            assert [each.service for each in heard(tracer)] == [FRONTEND]
            monkeypatch.undo()
        larger = Capacities(services=512)
        with hostreach.open(str(box.pin), capacities=larger) as grown:
            assert grown.attach(cgroup=str(box.cgroup)).grown
        box.call(call, VIP)
        assert [each.service for each in heard(tracer)] == [FRONTEND]


def test_tables_gone(services: Node) -> None:
    with closing(services.trace()) as tracer:
        services.detach(purge=True)
        with pytest.raises(errors.NotFound):
            tracer.read(0)
