# SPDX-License-Identifier: Apache-2.0
"""Tables that grow under traffic, and what a growth leaves that was killed on the way."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import hostreach
from hostreach import Capacities, Service, errors
from hostreach.status import Status

from .harness import Box, cli, kernel
from .harness.clients import TCP, V4, Seen, exchange, new_socket
from .harness.line import Line
from .harness.stepping import RENAME, calls_of
from .harness.timing import wait_until

SMALL = Capacities(8, 32, 256)
LARGE = Capacities(64, 256, 2048)
FRONTEND = "10.96.0.10:80/tcp"
VIP = ("10.96.0.10", 80)
KILLS = 60 if os.environ.get("HOSTREACH_LONG") == "1" else 6


def capacities(status: Status) -> tuple[int, ...]:
    usages = (status.services, status.backends, status.slots)
    return tuple(usage.capacity for usage in usages if usage)


def connect_on(test: Line) -> None:
    """Connects until told to stop, and tells how often; fails at the first that goes wrong."""
    done = 0
    while not test.poll():
        assert exchange(V4, TCP, VIP) == Seen("10.0.0.2:80", VIP)
        done += 1
    test.recv()
    test.send(done)


@contextmanager
def attached(box: Box) -> Iterator[hostreach.Node]:
    box.serve("10.0.0.2:80/tcp")
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.attach(cgroup=str(box.cgroup))
        node.services.add(Service.of(FRONTEND, "10.0.0.2:80", name="web", affinity="1h"))
        yield node


def test_no_connect_fails(box: Box) -> None:
    with attached(box) as node, box.talk(connect_on) as client:
        for step in range(1, 6):
            larger = Capacities(*(8 * step * (size or 0) for size in SMALL))
            with hostreach.open(str(box.pin), capacities=larger) as again:
                assert again.attach(cgroup=str(box.cgroup)).grown == (step > 0)
            assert capacities(node.status()) == larger
        client.send("enough")
        done = client.recv()
        assert node.status().translations == done  # also those of the moments in between
    frontend = node.services.get(FRONTEND).frontend
    wait_until(lambda: node.services.active(frontend) == [0], "no open connections")


def test_sockets_keep_what_they_remember(box: Box) -> None:
    """What is there is there afterwards: services, counts, and the addresses that sockets see."""

    def converse(test: Line) -> None:
        with new_socket(V4, TCP) as client:
            client.connect(VIP)
            test.ask()
            assert client.getpeername() == kernel.shown(VIP, ("10.0.0.2", 80))
            test.ask()

    with attached(box) as node:
        before = node.services.list()
        with box.talk(converse) as client:
            client.recv()
            with hostreach.open(str(box.pin), capacities=LARGE) as larger:
                larger.attach(cgroup=str(box.cgroup))
            assert node.services.list() == before
            assert node.services.active(FRONTEND) == [1]
            client.send()
            client.recv()
            client.send()
        for number in range(40):
            node.services.add(Service.of(f"10.96.1.{number}:80/tcp", "10.0.0.2:80"))
        assert len(node.services) == 41
        assert node.status().translations >= 1


def test_growth_while_detached(box: Box) -> None:
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.services.add(Service.of(FRONTEND, "10.0.0.2:80"))
        with hostreach.open(str(box.pin), capacities=LARGE) as larger:
            larger.attach(cgroup=str(box.cgroup))
        assert capacities(node.status()) == LARGE
        assert [str(service.frontend) for service in node.services] == [FRONTEND]


def test_tables_do_not_shrink(box: Box) -> None:
    with attached(box) as node:
        smaller = Capacities(services=4)
        with (
            hostreach.open(str(box.pin), capacities=smaller) as again,
            pytest.raises(errors.Refused, match="shrink"),
        ):
            again.attach(cgroup=str(box.cgroup))
        assert capacities(node.status()) == SMALL


def test_refused_attach_does_not_grow(box: Box) -> None:
    """Attached elsewhere: one line, and nothing is another than before."""
    with attached(box) as node:
        with (
            hostreach.open(str(box.pin), capacities=LARGE) as again,
            pytest.raises(errors.AttachedElsewhere),
        ):
            again.attach(cgroup=str(box.bare))
        assert capacities(node.status()) == SMALL


def test_killed_on_the_way(box: Box) -> None:
    """Back or forward, but whole; and no client ever notices."""
    chance = random.Random(7)
    size = 64
    with attached(box) as node:
        with box.talk(connect_on, timeout=120) as client:
            command = [cli.SCRIPT, "attach", "--pin", str(box.pin), "--cgroup", str(box.cgroup)]
            started = time.monotonic()
            subprocess.run(
                [*command, f"--max-services={size}"], check=True, stdout=subprocess.DEVNULL
            )
            takes = time.monotonic() - started
            for _ in range(KILLS):
                size += 64
                process = subprocess.Popen(
                    [*command, f"--max-services={size}"], stdout=subprocess.DEVNULL
                )
                time.sleep(chance.uniform(0.3, 1.0) * takes)
                process.kill()
                process.wait()
                node.services.set(Service.of(f"10.96.2.{size // 64 % 20}:80/tcp", "10.0.0.2:80"))
                usage = node.status().services
                assert usage is not None
                assert usage.capacity <= size
                assert not (box.pin / "next").exists()
                assert {p.name for p in node.status().programs if p.effective} == kernel.hooks()
            client.send("enough")
            assert client.recv()
        node.detach(purge=True)
    assert not box.pin.exists()


def grow_by_steps(box: Box, kill: int | None = None) -> list[int | None]:
    """As `calls_of`."""

    def grow() -> None:
        with hostreach.open(str(box.pin), capacities=LARGE) as own:
            assert own.attach(cgroup=str(box.cgroup)).grown

    return calls_of(box, grow, kill)


@pytest.mark.parametrize("moved", [0, 1, 5])
def test_who_read_before_writes_to_what_is_there(box: Box, moved: int) -> None:
    """An agent reads, then writes: by then it has ended another's growth, and the tables are new.

    ``moved``: tables that had taken their places when that was killed.
    """
    wanted = Service.of("10.96.0.11:80/tcp", "10.0.0.2:80")
    with attached(box) as node:
        made = grow_by_steps(box)
        # User-Mode Linux shows a stopped process's registers without them.
        kernel.need(bool(made), "the numbers of another process's system calls")
        node.detach(purge=True)
    moves = [n for n, call in enumerate(made, 1) if call in RENAME]
    with hostreach.open(str(box.pin), capacities=SMALL) as node:
        node.attach(cgroup=str(box.cgroup))
        assert len(grow_by_steps(box, moves[moved])) == moves[moved]
        assert (box.pin / "next").exists()
        plain = node.plain.plain(wanted)
        assert node.plain.plain_differing([plain]) == [0]
        node.plain.plain_write([plain])
        assert not (box.pin / "next").exists()
        assert node.services.get(wanted.frontend) == wanted
        with hostreach.open(str(box.pin)) as other:
            assert other.services.get(wanted.frontend) == wanted
            assert capacities(other.status()) == LARGE
        assert box.call(exchange, V4, TCP, ("10.96.0.11", 80)).server == "10.0.0.2:80"


def test_purge_after_a_killed_growth(box: Box) -> None:
    with attached(box) as node:
        (box.pin / "next").mkdir(mode=0o700)
        (box.pin / "next" / "committed").mkdir(mode=0o700)
        node.detach(purge=True)
    assert not box.pin.exists()
