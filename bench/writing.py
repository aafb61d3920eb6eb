# SPDX-License-Identifier: Apache-2.0
"""What it takes to change the tables: in the library, by files, and by one command."""

from __future__ import annotations

import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import hostreach
from hostreach import Capacities, Service
from hostreach.sources.file import dump, dump_json

from .table import service

T = TypeVar("T")
Row: TypeAlias = dict[str, Any]

HOSTREACH = [sys.executable, "-m", "hostreach"]
CHANGES = 2000
"""Backends that are removed and added again, for one row."""


class Ran(NamedTuple):
    """One process."""

    seconds: float
    processor_s: float
    peak_mb: float


def library(pin: Path, services: int, backends: int, rounds: int) -> Row:
    """One size: fill from models, write what is prepared, nothing to change, export, one change."""
    capacities = Capacities(
        max(1024, services + services // 8),
        max(4096, services * backends * 9 // 8),
        max(8192, services * backends * 9 // 8),
    )
    wanted = [service(number, backends) for number in range(services)]
    gc.collect()
    gc.freeze()  # so many models would be walked by each collection from now on
    took: dict[str, list[float]] = {}

    def timed(name: str, action: Callable[..., T], *arguments: Any) -> T:
        begin = time.perf_counter()
        result = action(*arguments)
        took.setdefault(name, []).append((time.perf_counter() - begin) * 1e3)
        return result

    changes: list[float] = []
    for _ in range(rounds):
        with hostreach.open(str(pin), capacities=capacities) as node:
            try:
                node.services.add(service(services, backends))  # makes the tables
                timed("fill", node.services.apply, wanted)
                timed("unchanged", node.services.apply, wanted)
                timed("export", lambda node=node: dump(node.plain.plain_list()))
                changes += _single_changes(node, wanted)
            finally:
                node.detach(purge=True)
        # Into empty tables too: what was given up can be used again only after a while.
        with hostreach.open(str(pin), capacities=capacities) as node:
            try:
                node.services.add(service(services, backends))
                prepared = [node.plain.plain(each) for each in wanted]
                timed("write", node.plain.plain_write, prepared)
            finally:
                node.detach(purge=True)
    gc.unfreeze()
    entries = services * backends
    changes.sort()
    row: Row = {
        "services": services,
        "backends_each": backends,
        "capacities": " ".join(f"{size:,}" for size in capacities if size),
    }
    for name, times in took.items():
        row[f"{name}_ms"] = _spread(times)
    row["fill_per_s"] = round(entries / statistics.median(took["fill"]) * 1e3)
    row["write_per_s"] = round(entries / statistics.median(took["write"]) * 1e3)
    row["one_change_us_p50"] = round(statistics.median(changes), 1)
    row["one_change_us_p99"] = round(changes[len(changes) * 99 // 100], 1)
    return row


def _single_changes(node: hostreach.Node, services: Sequence[Service]) -> list[float]:
    took = []
    some = services[:: max(1, len(services) // (CHANGES // 2))]
    for each in some:
        frontend, old = str(each.frontend), each.backends[0].address
        for change in (node.services.remove_backend, node.services.add_backend):
            begin = time.perf_counter()
            change(frontend, old)
            took.append((time.perf_counter() - begin) * 1e6)
    return took


def files(pin: Path, folder: Path, services: int, backends: int, rounds: int) -> list[Row]:
    """``apply -f`` of one set of services in each format, into empty tables and once more."""
    wanted = [service(number, backends) for number in range(services)]
    whole = json.loads(dump_json(wanted))
    texts = {
        "YAML": dump(wanted),
        "JSON": json.dumps(whole),
        "JSON lines": "\n".join(map(json.dumps, whole["services"])),
    }
    paths = {}
    for number, (kind, text) in enumerate(texts.items()):
        paths[kind] = folder / str(number)
        paths[kind].write_text(text)
    sizes = [str(services * 2), str(services * backends * 9 // 8), str(services * backends * 2)]
    options = ("--max-services", "--max-backends", "--max-slots")
    room = [word for pair in zip(options, sizes, strict=True) for word in pair]
    ran: dict[tuple[str, str], list[Ran]] = {}
    for _ in range(rounds):
        for kind, path in paths.items():
            for what in ("all new", "unchanged"):
                command = [*HOSTREACH, "--pin", str(pin), "apply", "-f", str(path), *room]
                ran.setdefault((kind, what), []).append(run(command))
            run([*HOSTREACH, "--pin", str(pin), "detach", "--purge"])
    return [
        {
            "file": kind,
            "services": services,
            "backends_each": backends,
            "capacities": " ".join(f"{int(size):,}" for size in sizes),
            "what": what,
            "seconds": _spread([each.seconds for each in found], 2),
            "services_per_s": round(services / statistics.median(e.seconds for e in found)),
            "processor_s": round(statistics.median(e.processor_s for e in found), 2),
            "peak_mb": round(max(each.peak_mb for each in found)),
        }
        for (kind, what), found in ran.items()
    ]


def starts(pin: Path, cgroup: Path, rounds: int) -> list[Row]:
    """Commands on tables with one service, attached, in turn; as multiples of python's own start.

    Each has something to do: before `backend rm` there is that backend, and so on.
    """
    vip, other = "172.16.0.1:80/tcp", "10.0.0.1:80"
    base = [*HOSTREACH, "--pin", str(pin)]
    commands: dict[str, list[str]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "status": [*base, "status"],
        "svc ls": [*base, "svc", "ls"],
        "backend add": [*base, "backend", "add", vip, other],
        "backend rm": [*base, "backend", "rm", vip, other],
        "svc set": [*base, "svc", "set", vip, "--backend", "10.0.0.9:80", "--backend", other],
        "svc rm": [*base, "svc", "rm", vip],
        "detach": [*base, "detach"],
        "--help": [*base, "--help"],
        "completion": [*HOSTREACH, "completion", "bash"],
    }
    if bpftool := shutil.which("bpftool", path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        commands["bpftool version"] = [bpftool, "version"]
    with hostreach.open(str(pin)) as node:
        try:
            took: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                node.attach(cgroup=str(cgroup))
                node.services.set(Service.of(vip, "10.0.0.9:80"))
                for name, command in commands.items():
                    took[name].append(run(command).seconds * 1e3)
        finally:
            node.detach(purge=True)
    own = statistics.median(took["python -c pass"])
    return [
        {
            "command": name,
            "ms": _spread(times),
            "times_python": round(statistics.median(times) / own, 1),
        }
        for name, times in took.items()
    ]


_SPAWN = """
import os, sys, time
null = os.open(os.devnull, os.O_RDWR)
begin = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ,
    file_actions=[(os.POSIX_SPAWN_DUP2, null, to) for to in (0, 1)])
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(command: list[str]) -> Ran:
    """By a small process: a child's greatest resident set begins with its parent's.

    Raises CalledProcessError.
    """
    between = [sys.executable, "-I", "-S", "-c", _SPAWN, *command]
    done = subprocess.run(between, check=True, stdout=subprocess.PIPE, text=True)
    return Ran(*map(float, done.stdout.split()))


def _spread(values: Iterable[float], digits: int = 1) -> str:
    """The median, and the least and the most."""
    ordered = sorted(values)
    middle = statistics.median(ordered)
    return f"{middle:,.{digits}f} ({ordered[0]:,.{digits}f} .. {ordered[-1]:,.{digits}f})"
