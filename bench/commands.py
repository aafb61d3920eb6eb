# SPDX-License-Identifier: Apache-2.0
"""What commands take, each as a process: files that are applied, and how quickly it starts."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import hostreach
from hostreach import Service
from hostreach.sources.file import dump, dump_json

from .report import ratio, spread
from .writing import service

Row: TypeAlias = dict[str, Any]

HOSTREACH = [sys.executable, "-m", "hostreach"]


class Ran(NamedTuple):
    """One process."""

    seconds: float
    processor_s: float
    peak_mb: float


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
            "seconds": spread([each.seconds for each in found], 2),
            "services_per_s": round(services / statistics.median(e.seconds for e in found)),
            "processor_s": round(statistics.median(e.processor_s for e in found), 2),
            "peak_mb": round(max(each.peak_mb for each in found)),
        }
        for (kind, what), found in ran.items()
    ]


def starts(pin: Path, cgroup: Path, rounds: int) -> list[Row]:
    """Commands on tables with one service, attached, in turn; as multiples of python's own start.

    That is measured right before each, for a machine that others use is slower from one second to
    the next. Each has something to do: before `backend rm` there is that backend, and so on.
    """
    vip, other = "172.16.0.1:80/tcp", "10.0.0.1:80"
    base = [*HOSTREACH, "--pin", str(pin)]
    python = [sys.executable, "-c", "pass"]
    commands: dict[str, list[str]] = {
        "python -c pass": python,
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
            times: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds):
                node.attach(cgroup=str(cgroup))
                node.services.set(Service.of(vip, "10.0.0.9:80"))
                for name, command in commands.items():
                    own = run(python).seconds
                    seconds = run(command).seconds
                    took[name].append(seconds * 1e3)
                    times[name].append(seconds / own)
        finally:
            node.detach(purge=True)
    return [
        {"command": name, "ms": spread(took[name]), "times_python": ratio(times[name])}
        for name in commands
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
