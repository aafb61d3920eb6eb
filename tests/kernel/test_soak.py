# SPDX-License-Identifier: Apache-2.0
"""A machine at work: clients of all kinds, short-lived ones too, beside an agent and commands.

At the end memory is where it was once all had warmed up, and no map, link, program, pin or
descriptor is more than before. An hour with HOSTREACH_LONG=1, or HOSTREACH_SOAK_SECONDS.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import hostreach
from hostreach import Service
from hostreach.sources.file import dump

from .harness import Box, cli, counted, scaled, wait_until
from .harness.agents import AgentProcess, running
from .harness.bpf import attached, bpftool, pinned_maps
from .harness.clients import TCP, UDP_CONNECTED, UDP_UNCONNECTED, V4, exchange

LONG = os.environ.get("HOSTREACH_LONG") == "1"
SECONDS = float(os.environ.get("HOSTREACH_SOAK_SECONDS", "3600" if LONG else "6"))
WARM = max(4.0, min(60.0, SECONDS / 4))
PAUSE = 0.005
"""Seconds: the machine is to be at work, not out of breath."""
BLOCKS_MORE = 1000
"""Of Python's memory, of some 174,000: one that each round of an hour leaves is more."""
MAY_GROW = 4096
"""kB, for what is not Python's; of the interpreter's arenas ever more pages are touched."""

SERVERS = [f"10.0.0.{n}:80" for n in range(2, 8)]
KINDS = {TCP: "tcp", UDP_CONNECTED: "udp", UDP_UNCONNECTED: "udp"}


class Held(NamedTuple):
    """What an instance and its agent hold of the kernel."""

    pins: tuple[str, ...]
    descriptors: Counter[str]
    """The agent's, of BPF and of files that it follows."""
    descriptors_at_all: int
    threads: int
    kernel: int
    """Bytes of the pinned maps, as the kernel counts them."""


def held(box: Box, agent: AgentProcess) -> Held:
    process = Path(f"/proc/{agent.process.pid}")
    links = [str(path.readlink()) for path in (process / "fd").iterdir()]
    return Held(
        tuple(sorted(str(path.relative_to(box.pin)) for path in box.pin.rglob("*"))),
        Counter(link for link in links if link.startswith("anon_inode:")),
        len(links),
        len([*(process / "task").iterdir()]),
        sum(each["bytes_memlock"] for each in pinned_maps(box.pin).values()),
    )


def ids_of(box: Box) -> dict[str, set[int]]:
    """Of what is pinned and attached; the kernel gives none out again for long."""
    links = [bpftool("link", "show", "pinned", str(p)) for p in (box.pin / "links").glob("*")]
    return {
        "map": {each["id"] for each in pinned_maps(box.pin).values()},
        "prog": {*attached(box.cgroup).values()},
        "link": {each["id"] for each in links},
    }


def still_there(ids: dict[str, set[int]]) -> dict[str, set[int]]:
    return {kind: ids[kind] & {e["id"] for e in bpftool(kind, "show")} for kind in ids}


def memory(agent: AgentProcess) -> int:
    """kB of its own.

    Not those of the tables that it maps, which are the kernel's and counted there: it looks at ever
    more of the places, up to all 8 MB, as sockets' cookies rise.
    """
    for line in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")


def some_services(chance: random.Random) -> list[Service]:
    """Each frontend with some backends: those of the clients are always there."""
    return [
        Service.of(
            f"10.96.0.{number}:80/{protocol}",
            *(f"{server},weight={chance.randrange(1, 5)}" for server in chance.sample(SERVERS, 3)),
            algorithm=chance.choice(["random", "maglev", "least-conn"]),
            on_removal="keep",
        )
        for number in range(1, 1 + chance.randrange(2, 30))
        for protocol in ("tcp", "udp")
    ]


def one_after_another(seconds: float, kind: str) -> int:
    """Exchanges of a process that lives long."""
    done, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        exchange(V4, kind, ("10.96.0.1", 80))
        done += 1
        time.sleep(PAUSE)
    return done


@contextmanager
def clients(box: Box, seconds: float) -> Iterator[None]:
    """One of each kind that lives long; and each must have got somewhere."""
    long_lived = [
        box.start(one_after_another, seconds, kind, timeout=seconds + 60) for kind in KINDS
    ]
    yield
    assert all(client.result() > 10 for client in long_lived)


def is_no_more(after: Held, before: Held) -> bool:
    """But for the two maps that it waits for grace periods with, once it has to wait for one."""
    waiting = Counter({"anon_inode:bpf-map": 2})
    more = after.descriptors - before.descriptors
    return (
        more in (Counter(), waiting)
        and after.descriptors_at_all - before.descriptors_at_all <= more.total()
        and (after.pins, after.threads, after.kernel)
        == (before.pins, before.threads, before.kernel)
    )


def test_hours_of_work(box: Box, tmp_path: Path) -> None:
    chance = random.Random(5)
    box.serve(*(f"{server}/{protocol}" for server in SERVERS for protocol in ("tcp", "udp")))
    file = tmp_path / "services.yaml"
    new = tmp_path / "new"

    def change() -> None:
        new.write_text(dump(some_services(chance)))
        new.rename(file)

    def work(seconds: float) -> int:
        """Changes of the file, commands, and clients that live for one exchange."""
        rounds, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            change()
            for kind in KINDS:
                box.call(exchange, V4, kind, ("10.96.0.2", 80))
            extra = f"10.97.0.{rounds % 250 + 1}:80/tcp"
            for command in (
                ("svc", "add", extra, "--backend", SERVERS[0]),
                ("backend", "add", extra, SERVERS[1]),
                ("svc", "rm", extra),
            ):
                said = cli.run(box.pin, *command)
                assert said.status == 0, said
            rounds += 1
        return rounds

    wanted = some_services(random.Random(1))
    change()
    blocks = tmp_path / "blocks"
    counting = (sys.executable, str(counted.__file__), str(blocks))
    process = AgentProcess(box, "file", str(file), directory=tmp_path, wrapper=counting)
    with running(process) as agent:
        agent.wait_ready()
        with hostreach.open(str(box.pin)) as node, clients(box, scaled(WARM + SECONDS)):

            def settle() -> None:
                """The same services each time, for what they take is to be compared."""
                new.write_text(dump(wanted))
                new.rename(file)
                wait_until(lambda: len(node.services) == len(wanted), "the last change")

            work(WARM)
            settle()
            hooks, before, warm = attached(box.cgroup), held(box, agent), memory(agent)
            fewest_before = counted.fewest(blocks, 3)
            rounds = work(SECONDS)
            settle()
            # at work it opens some tables for a moment
            wait_until(lambda: is_no_more(held(box, agent), before), "no more held than before")
            grown = memory(agent) - warm
            more = counted.fewest(blocks, 3) - fewest_before
        print(f"{rounds} rounds in {SECONDS:g} s, the agent grew by {grown} kB, {more} blocks")
        assert rounds > 2
        assert more < BLOCKS_MORE
        assert grown < MAY_GROW
        assert attached(box.cgroup) == hooks
        assert "error" not in agent.log, agent.log
        # The tables forgot nothing that is not theirs any more.
        assert cli.run(box.pin, "status", "--json").json["services"]["used"] == len(wanted)
        ids = ids_of(box)
        assert all(still_there(ids).values())
    assert cli.run(box.pin, "detach", "--purge").status == 0
    assert not box.pin.exists()
    # The kernel frees them a while after nobody has them.
    wait_until(lambda: not any(still_there(ids).values()), "all of it freed", seconds=30)
