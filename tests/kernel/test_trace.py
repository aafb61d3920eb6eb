# SPDX-License-Identifier: Apache-2.0
"""`trace`: a line for each call that is translated or refused, and none for others."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Capacities, Service, errors
from hostreach.tracing import Traced, Tracer, Wanted

from .harness import Box, cli, kernel, scaled, wait_until
from .harness.clients import FAMILIES, KINDS, TCP, V4, Family, exchange, outcome, protocol_of
from .harness.host import HOST_V4, attach_inside, give_addresses, opened
from .harness.rawmap import RawMap

if TYPE_CHECKING:
    from hostreach.node import Node

FRONTEND, VIP = "10.96.0.10:80/tcp", ("10.96.0.10", 80)
OTHER, OTHER_VIP = "10.96.0.11:80/tcp", ("10.96.0.11", 80)
EMPTY, EMPTY_VIP = "10.96.0.12:80/tcp", ("10.96.0.12", 80)
SERVER = "10.0.0.2:8080"
LISTENED = 3  # HR_LISTENED, an index of `flags`


@pytest.fixture(autouse=True)
def tracing() -> None:
    kernel.need(kernel.traces(), "ring buffer for programs")


@pytest.fixture
def services(box: Box, node: Node) -> Node:
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(FRONTEND, SERVER, name="shop/web:http"))
    node.services.add(Service.of(OTHER, SERVER))
    node.services.add(Service.of(EMPTY))
    return node


def call(vip: tuple[str, int]) -> tuple[int, object]:
    return os.getpid(), outcome(exchange, V4, TCP, vip)


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


def is_listened(box: Box) -> bool:
    with RawMap.pinned(box.pin / "flags") as flags:
        return flags[LISTENED] != bytes(8)


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


# ---- the command ----


@contextmanager
def tracing_by(box: Box, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [cli.SCRIPT, "trace", *arguments, "--pin", str(box.pin)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: is_listened(box) or process.poll() is not None, "trace listens")
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.usefixtures("services")
def test_lines(box: Box) -> None:
    with tracing_by(box) as process:
        pid, _ = box.call(call, VIP)
        box.call(call, EMPTY_VIP)
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=scaled(10)) == ("", "")
        assert process.returncode == 0
    assert f"[{pid}]" in lines[0]
    for part in (FRONTEND, f"-> {SERVER}", "shop/web:http", f"/{box.cgroup.name}"):
        assert part in lines[0]
    assert f"{EMPTY}     refused: no usable backend" in lines[1]
    box.call(call, VIP)
    assert not is_listened(box)


@pytest.mark.usefixtures("services")
def test_a_cgroup_of_any_name(box: Box) -> None:
    """Whoever has a subtree of his own names his as he likes; it is root's terminal."""
    named = box.cgroup / os.fsdecode(b"e\x1b[31m\xff")

    def call_from_there() -> None:
        named.mkdir()
        (named / "cgroup.procs").write_text(str(os.getpid()))
        call(VIP)

    try:
        for options in ((), ("--json",)):
            with tracing_by(box, *options) as process:
                box.call(call_from_there)
                assert process.stdout
                line = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert process.communicate(timeout=scaled(10)) == ("", "")
            assert "\x1b[31m" not in line
            assert "xff" in line
            named.rmdir()
    finally:
        with contextlib.suppress(FileNotFoundError):
            named.rmdir()


@pytest.mark.usefixtures("services")
def test_json_lines_for_a_while(box: Box) -> None:
    with tracing_by(box, "--json", "--duration=1500ms", "--verdict=translated") as process:
        box.call(call, VIP)
        box.call(call, EMPTY_VIP)
        out, err = process.communicate(timeout=scaled(20))
        assert (process.returncode, err) == (0, "")
    (seen,) = map(json.loads, out.splitlines())
    assert seen["schema"] == 1
    assert (seen["service"], seen["backend"], seen["verdict"]) == (FRONTEND, SERVER, "translated")


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("calls", [0, 3])
def test_nobody_reads_on(box: Box, calls: int) -> None:
    """As in `trace | head`: it ends in quiet, and even if nothing more comes."""
    with tracing_by(box) as process:
        assert process.stdout
        process.stdout.close()
        for _ in range(calls):
            box.call(call, VIP)
        assert process.wait(timeout=scaled(10)) == 0
        assert process.stderr
        assert process.stderr.read() == ""
        process.stdout = None


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_ended_by_signals(box: Box, number: signal.Signals) -> None:
    with tracing_by(box) as process:
        process.send_signal(number)
        assert process.wait(timeout=scaled(10)) == 0
    box.call(call, VIP)
    assert not is_listened(box)


def test_what_it_refuses(box: Box) -> None:
    def said(status: int, *arguments: str) -> str:
        found = cli.run(box.pin, "trace", "--duration=10ms", *arguments)
        assert (found.status, found.stdout, found.stderr.count("\n")) == (status, "", 1), found
        return found.stderr

    assert "no tables here" in said(1)
    assert cli.run(box.pin, "svc", "add", FRONTEND, "--backend", SERVER).status == 0
    assert "nothing is attached" in said(0)
    for wrong in (
        ["--service=10.96.0.10:80"],
        ["--pid=0"],
        ["--pid=4294967296"],
        ["--cgroup=system.slice"],
        ["--cgroup=/proc"],
        ["--verdict=odd"],
        ["--duration=1"],
    ):
        said(2, *wrong)


def test_without_a_ring_buffer(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not there, and all else is."""
    for without in ("ring_buffer", "sk_storage"):
        kernel.switch_off(monkeypatch, without)
        assert cli.run(box.pin, "attach", "--cgroup", str(box.cgroup)).status == 0
        assert cli.run(box.pin, "svc", "add", FRONTEND, "--backend", SERVER).status == 0
        found = cli.run(box.pin, "trace")
        assert (found.status, found.stdout, found.stderr.count("\n")) == (1, "", 1), found
        assert "Linux 5.8" in found.stderr
        assert cli.run(box.pin, "detach", "--purge").status == 0
        monkeypatch.undo()
