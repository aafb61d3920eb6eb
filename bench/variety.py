# SPDX-License-Identifier: Apache-2.0
"""Other clients than one process that calls on and on: many at once, short-lived ones, forms."""

from __future__ import annotations

import ctypes
import os
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from kernel.harness import Box, rawbpf
from kernel.harness.host import attach_inside

import hostreach
from hostreach import Service

from . import forms
from .hooks import UDP, Cost
from .load import (
    Library,
    Shape,
    backend_addresses,
    check,
    compiled,
    compiled_program,
    service_address,
    sockets,
)
from .traffic import PROCESSOR, own_server

_SECONDS = 120
_AHEAD = 0.05  # for all processes to be there when they begin
_CHUNK = 500  # calls between two looks at the clock


class Effort(NamedTuple):
    """How long it may take."""

    rounds: int
    seconds: float  # of each set of processes in a round
    lives: int  # of short-lived processes each way


FULL = Effort(7, 0.1, 1_000)
QUICK = Effort(3, 0.05, 200)
SMOKE = Effort(1, 0.005, 25)


class Way(NamedTuple):
    """Whom the processes call, and whether hostreach is in between."""

    text: str
    bare: bool
    target: Callable[[int], tuple[str, int]]  # of process n


_FRONTENDS = ("10.97.0.1", "10.97.0.2")  # of 1 backend and of 10
DIRECT = Way("direct", True, lambda _: backend_addresses(4)[0])
WAYS = (
    DIRECT,
    Way("own services", False, lambda n: service_address(4, n)),
    Way("one service, 10 backends", False, lambda _: (_FRONTENDS[1], 80)),
    Way("one service, 1 backend", False, lambda _: (_FRONTENDS[0], 80)),
)
CROWD_CALLS = {"one socket each": "connect_reused", "new sockets": "connect_new"}


class Crowd(NamedTuple):
    """Calls a second of each process, in each round: when it is alone, and among all."""

    call: str
    way: str
    processes: int
    alone: list[float]
    together: list[float]


class Lives(NamedTuple):
    """Nanoseconds of each process, from fork to its end."""

    way: str
    took: list[int]


class Measured(NamedTuple):
    """All of it."""

    crowds: list[Crowd]
    lives: list[Lives]
    forms: list[Cost]


def measure(effort: Effort, say: Callable[[str], None]) -> Measured:
    """In sandboxes of their own."""
    library = Library()
    with closing(Box()) as box, hostreach.open(str(box.pin)) as node:
        node.services.apply([*Shape().made(), *_shared()])
        attach_inside(box, node)  # so that its addresses are the node's
        say("many processes")
        crowds = _crowds(box, library, effort)
        say("short-lived processes")
        lives = _lives(box, effort)
        for hook in rawbpf.ATTACH_TYPES:  # last: until now the way past hostreach was bare
            rawbpf.attach(box.bare, hook)
        say("forms of addresses")
        return Measured(crowds, lives, forms.measure(box, node, library, effort.rounds))


def _shared() -> list[Service]:
    backends = [f"{host}:{port}" for host, port in backend_addresses(4)[:10]]
    return [
        Service.of(f"{_FRONTENDS[0]}:80/udp", backends[0]),
        Service.of(f"{_FRONTENDS[1]}:80/udp", *backends),
    ]


# ---- many processes, each on a processor of its own ----


def _crowds(box: Box, library: Library, effort: Effort) -> list[Crowd]:
    """UDP: nothing but the hook and the socket is between them."""
    processors = sorted(os.sched_getaffinity(0))
    made = {
        (call, way): Crowd(call, way.text, len(processors), [], [])
        for call in CROWD_CALLS
        for way in WAYS
    }
    for _ in range(effort.rounds):
        for (call, way), crowd in made.items():
            for some, rates in ((processors[:1], crowd.alone), (processors, crowd.together)):
                begin = time.monotonic() + _AHEAD
                running = [
                    box.start(
                        _call,
                        library,
                        CROWD_CALLS[call],
                        way.target(n),
                        processor,
                        begin,
                        effort.seconds,
                        bare=way.bare,
                    )
                    for n, processor in enumerate(some)
                ]
                each = [process.result() for process in running]
                rates.append(sum(each) / len(each))
    return [*made.values()]


def _call(
    library: Library,
    function: str,
    target: tuple[str, int],
    processor: int,
    begin: float,
    seconds: float,
) -> float:
    os.sched_setaffinity(0, [processor])
    with sockets(4, UDP, [target], serves=False) as made:
        made.use(made.open(1))
        while time.monotonic() < begin:
            library.call(function, made.load, _CHUNK)
        calls, began, took = 0, time.monotonic(), 0.0
        while took < seconds:
            library.call(function, made.load, _CHUNK)
            calls += _CHUNK
            took = time.monotonic() - began
    return calls / took


# ---- processes that live for one connection ----

_LIVES = 25
"""Each way in turn."""
_WARM_LIVES = 3
"""Not counted: forks just after a change of cgroups are slower (cgroup_threadgroup_rwsem)."""


def _lives(box: Box, effort: Effort) -> list[Lives]:
    with tempfile.TemporaryDirectory(prefix="hostreach-bench-") as folder:
        program = compiled_program("once.c", Path(folder))
        return box.call(_live, box, program, effort.lives, timeout=_SECONDS)


def _live(box: Box, program: str, count: int) -> list[Lives]:
    os.sched_setaffinity(0, [PROCESSOR])  # nor does anyone wait for a processor that others use
    run_once = compiled("variety.c").run_once
    run_once.restype = ctypes.c_longlong
    server = own_server(socket.SOCK_STREAM)
    lives = [Lives("direct", []), Lives("through a service", [])]
    for start in range(0, count, _LIVES):
        for through, each in enumerate(lives):
            box.enter(bare=not through)
            for n in range(-_WARM_LIVES, _LIVES):
                number = (start + n) % 1000
                service, backend = service_address(4, number), backend_addresses(4)[number % 40]
                host, port = service if through else backend
                words = [word.encode() for word in (program, host, str(port))]
                argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
                took = run_once(words[0], argv)
                check(took, "once")
                server.accept()[0].close()
                if n >= 0:
                    each.took.append(took)
    return lives
