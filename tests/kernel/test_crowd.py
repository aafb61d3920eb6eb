# SPDX-License-Identifier: Apache-2.0
"""Two agents and three command lines at once: each has its own way, and no other's is lost."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import hostreach
from hostreach import Service
from hostreach.sources.file import dump

from .harness import SCALE, Box, cli, wait_until
from .harness.agents import AgentProcess, running
from .harness.bpf import attached

LONG = os.environ.get("HOSTREACH_LONG") == "1"
SECONDS = 120.0 if LONG else max(6.0, SCALE)


def services(network: int, count: int, version: int) -> list[Service]:
    return [
        Service.of(f"10.{network}.0.{n}:80/tcp", f"10.0.{network}.{n}:{version}")
        for n in range(1, count + 1)
    ]


def write(file: Path, some: list[Service]) -> None:
    """At one stroke: half a file would be an error of its own."""
    new = file.with_suffix(".new")
    new.write_text(dump(some))
    new.rename(file)


def commands(pin: Path, network: int, seconds: float) -> int:
    """As an operator's script: add, change, look, remove; the last round stays. How many rounds."""
    rounds, last, end = 0, False, time.monotonic() + seconds
    while not last:
        last = rounds >= 1 and time.monotonic() >= end
        frontend = f"10.{network}.0.1:80/tcp"
        wanted: list[tuple[str, ...]] = [
            ("svc", "add", frontend, "--backend", f"10.0.{network}.1:80"),
            ("backend", "add", frontend, f"10.0.{network}.2:80"),
            ("backend", "rm", frontend, f"10.0.{network}.1:80"),
        ]
        if not last:
            wanted.append(("svc", "rm", frontend))
        for command in wanted:
            said = cli.run(pin, *command)
            assert said.status == 0, said
            listed = cli.run(pin, "svc", "ls", "--json").json["services"]
            mine = [each for each in listed if each["frontend"] == frontend]
            assert len(mine) == (command[:2] != ("svc", "rm"))
        rounds += 1
    return rounds


def test_two_agents_and_three_command_lines(box: Box, tmp_path: Path) -> None:
    chance = random.Random(7)
    files = [tmp_path / f"{name}.yaml" for name in ("one", "two")]
    for number, file in enumerate(files):
        write(file, services(100 + number, 3, 80))
    first = AgentProcess(box, "file", str(files[0]), directory=tmp_path)
    with running(first) as one:
        one.wait_ready()
        second = ("file", str(files[1]), "--owner=other", "--listen=127.0.0.1:9880")
        with (
            running(AgentProcess(box, *second, directory=tmp_path)) as two,
            hostreach.open(str(box.pin)) as node,
        ):
            wait_until(lambda: two.ask("/readyz", 9880)[0] == 200, "the second agent")
            lines = [
                box.start(commands, box.pin, 110 + n, SECONDS, bare=True, timeout=SECONDS + 120)
                for n in range(3)
            ]
            hooks, end = attached(box.cgroup), time.monotonic() + SECONDS
            while time.monotonic() < end:
                for number, file in enumerate(files):
                    some = services(100 + number, chance.randrange(1, 40), chance.randrange(1, 99))
                    write(file, some)
                time.sleep(0.05)
            assert all(line.result() >= 2 for line in lines)
            wanted = {"file": services(100, 20, 7), "other": services(101, 30, 7)}
            for file, some in zip(files, wanted.values(), strict=True):
                write(file, some)

            def in_step() -> bool:
                return all(
                    [(s.frontend, s.backends) for s in node.services.list(owner)]
                    == [(s.frontend, s.backends) for s in some]
                    for owner, some in wanted.items()
                )

            wait_until(in_step, "both agents in step")
            manual = node.services.list("manual")
            assert [str(s.frontend) for s in manual] == [
                f"10.{110 + n}.0.1:80/tcp" for n in range(3)
            ]
            assert all(len(s.backends) == 1 for s in manual)
            assert attached(box.cgroup) == hooks
            assert one.process.poll() is None
            assert two.process.poll() is None
            assert "error" not in one.log + two.log
