# SPDX-License-Identifier: Apache-2.0
"""Writers beside writers, beside readers, beside clients; and writers that are killed."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import struct
import subprocess
import threading
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import hostreach
from hostreach import Service, errors
from hostreach.node import Capacities
from hostreach.sources.file import dump

from .harness import SCALE, Box, cli, scaled, wait_until
from .harness.clients import TCP, UDP_CONNECTED, V4, ask, connect, exchange, new_socket
from .harness.rawmap import RawMap

if TYPE_CHECKING:
    from collections.abc import Sequence

LONG = os.environ.get("HOSTREACH_LONG") == "1"
# How long two things run beside each other; a slow machine needs longer to get anywhere.
SECONDS = 60.0 if LONG else max(1.0, SCALE / 3)
KILLS = 300 if LONG else 25
CLI_KILLS = 40 if LONG else 5

CAPACITIES = Capacities(services=512, backends=4096, slots=16384)


@cache
def service(version: int, number: int) -> Service:
    """One that tells, in every part of it, which version it is of."""
    return Service.of(
        f"10.96.{number >> 8}.{number & 255}:80/tcp",
        *(f"10.{version}.{number & 255}.{n}:80,weight={n}" for n in range(1, 2 + number % 5)),
        name=f"v{version}/{number}",
    )


def table(version: int, count: int = 40) -> list[Service]:
    return [service(version, number) for number in range(count)]


def used(node: hostreach.Node) -> tuple[int, ...]:
    """Services and backends in use."""
    status = node.status()
    return tuple(usage.used for usage in (status.services, status.backends) if usage)


def versions(services: Sequence[Service]) -> list[int]:
    """Each service's version; fails on one that is a mixture of two."""
    found = []
    for each in services:
        assert each.name, each
        version, number = map(int, each.name[1:].split("/"))
        assert each == service(version, number), "neither before nor after"
        found.append(version)
    return found


def test_a_forked_child_keeps_no_lock(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is on an open file, which a fork shares; and it is to die with who took it."""
    monkeypatch.setattr("hostreach.datapath.lock.LOCK_TIMEOUT", scaled(2.0))
    node = hostreach.open(str(box.pin), capacities=CAPACITIES)
    node.services.add(service(1, 1))
    reader, writer = os.pipe()
    killed = os.fork()
    if not killed:
        with node.plain.exclusive():
            child = os.fork()
            if child:
                os.write(writer, str(child).encode())
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(scaled(60.0))
            os._exit(0)
    os.waitpid(killed, 0)
    child = int(os.read(reader, 20))
    try:
        node.services.add(service(1, 2))
        assert versions(node.services.list()) == [1, 1]
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("leaves", [False, True], ids=["writes", "leaves"])
def test_a_forked_child_has_no_batch(box: Box, leaves: bool) -> None:
    """What it was forked in is its parent's, who is still at it."""

    def generation() -> int:
        with RawMap.pinned(box.pin / "meta") as meta:
            number: int = struct.unpack_from("=Q", meta[0], 16)[0]
            return number

    with hostreach.open(str(box.pin), capacities=CAPACITIES) as node, ExitStack() as stack:
        stack.enter_context(node.plain.exclusive())
        node.services.add(service(1, 1))
        before = generation()
        child = os.fork()
        if not child:
            status = 1
            try:
                if leaves:
                    stack.close()
                else:
                    with pytest.raises(errors.Refused, match="not locked"):
                        node.services.add(service(1, 2))
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert before % 2
        assert generation() == before
        node.services.add(service(1, 2))
        stack.close()
        assert generation() == before + 1
        assert len(node.services) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # 3.12 and later
def test_a_fork_beside_a_thread_that_writes(box: Box) -> None:
    """The child has no such thread, so nobody there would ever give back what it held."""
    node = hostreach.open(str(box.pin), capacities=CAPACITIES)
    node.services.add(service(1, 1))
    writes, forked = threading.Event(), threading.Event()

    def write() -> None:
        with node.plain.exclusive():
            node.services.add(service(1, 2))
            writes.set()
            forked.wait(scaled(10.0))

    def add() -> list[int]:
        node.services.add(service(1, 3))
        return versions(node.services.list())

    writer = threading.Thread(target=write)
    writer.start()
    assert writes.wait(scaled(10.0))
    child = box.start(add, timeout=10.0)
    forked.set()
    writer.join()
    assert child.result() == [1, 1, 1]
    node.services.add(service(1, 4))
    assert versions(node.services.list()) == [1, 1, 1, 1]


def test_two_writers_at_once(box: Box) -> None:
    """Both do all of their work, and nothing of it is lost."""

    def write(owner: str, network: int) -> int:
        done = 0
        deadline = time.monotonic() + SECONDS
        with hostreach.open(str(box.pin), capacities=CAPACITIES) as node:
            last = False
            while not last:
                last = done >= 2 and time.monotonic() >= deadline
                frontends = [f"10.{network}.0.{n}:80/udp" for n in range(1, 6)]
                for n, frontend in enumerate(frontends):
                    node.services.add(Service.of(frontend, f"10.0.{network}.{n}:80", owner=owner))
                for frontend in frontends:
                    node.services.add_backend(frontend, "10.0.0.9:80", owner=owner)
                done += 1
                if not last:
                    for frontend in frontends:
                        node.services.remove(frontend, owner=owner)
        return done

    writers = [box.start(write, f"owner{n}", 100 + n, timeout=SECONDS + 30) for n in range(3)]
    assert all(writer.result() for writer in writers)
    with hostreach.open(str(box.pin)) as node:
        assert all(len(each.backends) == 2 for each in node.services)
        assert used(node)[0] == len(node.services)
        for n in range(3):
            left = node.services.list(owner=f"owner{n}")
            assert {each.frontend.address.split(".")[1] for each in left} <= {str(100 + n)}


def test_a_reader_sees_only_acknowledged_states(box: Box) -> None:
    """One batch is one state: a reader beside it gets all of the old or all of the new."""

    def write() -> int:
        version = 0
        deadline = time.monotonic() + SECONDS
        with hostreach.open(str(box.pin)) as node:
            while time.monotonic() < deadline:
                version += 1
                # The number of services changes too.
                node.services.apply(table(version % 200, 40 + version % 2), prune=True)
        return version

    with hostreach.open(str(box.pin), capacities=CAPACITIES) as node:
        node.services.apply(table(0))
        writer = box.start(write, timeout=SECONDS + 30)
        seen: set[int] = set()
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            services = node.services.list()
            (version,) = set(versions(services))
            assert len(services) == 40 + version % 2
            seen.add(version)
            assert used(node)[0] in (40, 41)
        assert writer.result() > 2
        assert len(seen) > 2


def test_another_writer_is_waited_for(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that is not let go of: a clear error. Its holder's death sets it free."""
    monkeypatch.setattr("hostreach.datapath.lock.LOCK_TIMEOUT", 0.3)
    with hostreach.open(str(box.pin), capacities=CAPACITIES) as node:
        node.services.add(Service.of("10.96.0.1:80/tcp"))

        def hold() -> None:
            Path("/proc/self/comm").write_bytes(b"a\xff\x1bb")  # its own to choose
            directory = os.open(box.pin, os.O_RDONLY)
            fcntl.flock(directory, fcntl.LOCK_EX)
            time.sleep(3600)

        holder = box.start(hold, timeout=600)
        wait_until(lambda: _is_locked(box.pin), "the lock being held")
        with pytest.raises(errors.TableBusy) as caught:
            node.services.add(Service.of("10.96.0.2:80/tcp"))
        assert str(caught.value).endswith(f"process {holder.pid} (a??b) holds it")
        os.kill(holder.pid, signal.SIGKILL)
        node.services.add(Service.of("10.96.0.2:80/tcp"))
        assert len(node.services) == 2


def _is_locked(pin: Path) -> bool:
    directory = os.open(pin, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(directory)
    return False


def test_exceptions_let_go_of_the_lock(box: Box) -> None:
    with hostreach.open(str(box.pin), capacities=CAPACITIES) as node:
        node.services.add(Service.of("10.96.0.1:80/tcp"))
        for _ in range(3):
            with pytest.raises(errors.AlreadyExists):
                node.services.add(Service.of("10.96.0.1:80/tcp"))
            assert not _is_locked(box.pin)


def test_killed_writers_leave_whole_services(box: Box) -> None:
    """SIGKILL at any moment of a batch; the next writer finds nothing to repair, or lost."""

    def write(version: int) -> None:
        with hostreach.open(str(box.pin)) as node:
            while True:
                node.services.apply(table(version % 200, 40 + version % 3), prune=True)
                version += 1

    chance = random.Random(1)
    with hostreach.open(str(box.pin), capacities=CAPACITIES) as node:
        node.services.apply(table(0, 42))
        for kill in range(KILLS):
            writer = box.start(write, kill + 1)
            time.sleep(scaled(chance.uniform(0.005, 0.06)))
            writer.stop()
            found = node.services.list()
            assert 39 < len(found) < 43
            assert versions(found)
            if kill % 5 == 4:
                node.services.apply(table(201), prune=True)
                assert set(versions(node.services.list())) == {201}
                assert used(node) == (40, sum(len(s.backends) for s in table(201)))


def test_killed_writers_lose_no_room(box: Box) -> None:
    """After many killed writers the tables still hold all that they are said to hold."""

    def write() -> None:
        with hostreach.open(str(box.pin)) as node:
            for version in range(10_000):
                node.services.apply(table(version % 200, 20 + version % 3), prune=True)

    full = Capacities(services=24, backends=96, slots=400)
    chance = random.Random(2)
    with hostreach.open(str(box.pin), capacities=full) as node:
        node.services.apply(table(0, 20))
        for _ in range(10):
            writer = box.start(write)
            time.sleep(scaled(chance.uniform(0.005, 0.05)))
            writer.stop()
        node.services.apply([], prune=True)
        filling = [
            Service.of(f"10.96.0.{n}:80/tcp", *(f"10.0.{n}.{b}:80" for b in range(4)))
            for n in range(24)
        ]
        node.services.apply(filling)
        assert used(node)[1] == 96
        assert node.services.list() == filling


def test_killed_cli_leaves_whole_services(box: Box, tmp_path: Path) -> None:
    """The same by `hostreach apply`, killed anywhere from its start to its end."""
    files = [tmp_path / f"{version}.yaml" for version in (1, 2)]
    for version, file in enumerate(files, 1):
        file.write_text(dump(table(version, 400)))

    def apply(file: Path, kill_after: float | None) -> float:
        command = [cli.SCRIPT, "apply", "--pin", str(box.pin), "-f", str(file)]
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            status = process.wait(kill_after)
            assert status == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return time.monotonic() - started

    chance = random.Random(3)
    with hostreach.open(str(box.pin), capacities=CAPACITIES) as node:
        node.services.apply(table(1, 400))
        takes = apply(files[1], None)
        assert set(versions(node.services.list())) == {2}
        for kill in range(CLI_KILLS):
            apply(files[kill % 2], chance.uniform(0.5, 1.0) * takes)
            assert set(versions(node.services.list())) <= {1, 2}
            assert len(node.services) == 400
        apply(files[0], None)
        assert set(versions(node.services.list())) == {1}


@pytest.mark.parametrize("kind", [TCP, UDP_CONNECTED])
def test_clients_never_reach_another_services_backend(box: Box, kind: str) -> None:
    """Two services trade their backends' slots, ids and sizes as fast as a writer can."""
    protocol = kind.partition("-")[0]
    servers = [f"10.0.0.{n}:80" for n in range(2, 34)]
    box.serve(*(f"{server}/{protocol}" for server in servers))
    halves = servers[:16], servers[16:]
    frontends = [f"10.96.0.{n}:80/{protocol}" for n in range(2)]

    def check(number: int) -> int:
        done = 0
        deadline = time.monotonic() + SECONDS
        with new_socket(V4, kind) as reused:
            while time.monotonic() < deadline:
                if kind == TCP:
                    server = exchange(V4, TCP, (f"10.96.0.{number}", 80)).server
                else:
                    connect(reused, (f"10.96.0.{number}", 80))
                    server = ask(reused).server
                assert server in halves[number]
                done += 1
        return done

    capacities = Capacities(services=4, backends=64, slots=256)
    chance = random.Random(4)
    with hostreach.open(str(box.pin), capacities=capacities) as node:
        for number in range(2):
            node.services.add(Service.of(frontends[number], *halves[number], on_removal="keep"))
        node.attach(cgroup=str(box.cgroup))
        clients = [box.start(check, number, timeout=SECONDS + 30) for number in range(2)]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            number = chance.randrange(2)
            some = chance.sample(halves[number], chance.randint(1, 12))
            backends = [f"{server},weight={chance.randint(1, 5)}" for server in some]
            node.services.set(Service.of(frontends[number], *backends, on_removal="keep"))
        assert all(client.result() > 10 for client in clients)


def test_clients_never_reach_a_recycled_service(box: Box) -> None:
    """One service goes and another comes, again and again, in the same hash element and index."""
    servers = ["10.0.0.2:80", "10.0.0.3:80"]
    box.serve(*(f"{server}/udp" for server in servers))

    def check(number: int) -> int:
        reached = 0
        deadline = time.monotonic() + SECONDS
        with new_socket(V4, UDP_CONNECTED) as client:
            while time.monotonic() < deadline:
                if client.connect_ex((f"10.96.0.{number}", 80)) == 0:
                    assert ask(client).server == servers[number]
                    reached += 1
        return reached

    capacities = Capacities(services=1, backends=1, slots=4)
    with hostreach.open(str(box.pin), capacities=capacities) as node:
        node.attach(cgroup=str(box.cgroup))
        clients = [box.start(check, number, timeout=SECONDS + 30) for number in range(2)]
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for number in range(2):
                frontend = f"10.96.0.{number}:80/udp"
                node.services.add(Service.of(frontend, servers[number], on_removal="keep"))
                time.sleep(scaled(0.005))
                node.services.remove(frontend)
        assert all(client.result() for client in clients)
