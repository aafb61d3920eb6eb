# SPDX-License-Identifier: Apache-2.0
"""What each hook costs, beside a program on the same hook that does nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from kernel.harness import Box
from kernel.harness.host import move_to
from kernel.harness.rawprog import Program

from .load import (
    Library,
    Shape,
    Sockets,
    allow_many_files,
    backend_addresses,
    sockets,
)
from .programs import attached, statistics


class Call(NamedTuple):
    """A kind of call: which hook it runs, what it looks like, how load.c makes it."""

    hook: str
    text: str
    function: str
    kind: socket.SocketKind
    sockets: int  # 0: a new one for each call
    calls: int  # each round
    connected: bool = False


UDP, TCP = socket.SOCK_DGRAM, socket.SOCK_STREAM
MANY = 200  # sockets, so that each is found colder
WARM = 1000  # calls that do not count
CALLED = 1000  # services, unless all are to be
CALLS = (
    Call("connect", "UDP, one socket", "connect_reused", UDP, 1, 4000),
    Call("connect", "UDP, new sockets", "connect_new", UDP, 0, 1000),
    Call("connect", "TCP, new sockets", "connect_new", TCP, 0, 1000),
    Call("sendmsg", "one socket", "send_reused", UDP, 1, 4000),
    Call("sendmsg", f"{MANY} sockets", "send_reused", UDP, MANY, 4000),
    Call("sendmsg", "new sockets", "send_new", UDP, 0, 1000),
    Call("recvmsg", "one socket", "receive", UDP, 1, 1000),
    Call("recvmsg", f"{MANY} sockets", "receive", UDP, MANY, 1000),
    Call("recvmsg", "one, connected", "receive_connected", UDP, 1, 1000, connected=True),
    Call("recvmsg", f"{MANY}, connected", "receive_connected", UDP, MANY, 1000, connected=True),
    Call("getpeername", "one, connected", "get_peer", UDP, 1, 4000, connected=True),
)


class Contestant(NamedTuple):
    """Whose program stands on the hook, and whether the call is for a service."""

    text: str
    empty: bool
    service: bool


SERVICE = Contestant("service", False, True)
NO_SERVICE = Contestant("no service", False, False)
EMPTY = Contestant("empty", True, False)
CONTESTANTS = (SERVICE, NO_SERVICE, EMPTY)


class Cost(NamedTuple):
    """Nanoseconds that one contestant took, in each round."""

    hook: str
    call: str
    contestant: str
    rounds: list[float]


def measure(
    box: Box,
    library: Library,
    rounds: int,
    shape: Shape = Shape(),  # noqa: B008 - immutable
    calls: Sequence[Call] = CALLS,
    called: int = CALLED,
) -> list[Cost]:
    """All calls by all contestants in each round; run in a process of the box's.

    So many of the services are called, at random places.
    """
    allow_many_files()
    costs: dict[tuple[str, str, str], list[float]] = {}
    services = {family: shape.service_addresses(family)[:called] for family in shape.families}
    with statistics():
        for number in range(rounds):
            for family in shape.families:
                for call in calls:
                    part = _part(services[family], number, WARM + call.calls)
                    # Whoever comes first finds the caches colder: take turns.
                    first = number % len(CONTESTANTS)
                    for contestant in CONTESTANTS[first:] + CONTESTANTS[:first]:
                        hook = f"{call.hook}{family}"
                        to = part if contestant.service else backend_addresses(family)
                        took = time_calls(box, library, call, contestant, family, to)
                        costs.setdefault((hook, call.text, contestant.text), []).append(took)
    return [Cost(*key, took) for key, took in costs.items()]


def _part(targets: Sequence[tuple[str, int]], number: int, size: int) -> list[tuple[str, int]]:
    """So many of them, each time those that come next."""
    count = len(targets)
    return [targets[n % count] for n in range(number * size, number * size + min(size, count))]


def time_calls(
    box: Box,
    library: Library,
    call: Call,
    contestant: Contestant,
    family: int,
    targets: Sequence[tuple[str, int]],
    callers: Path | None = None,
) -> float:
    """Nanoseconds of the hook's program in each call, its caller's and its frame's left out.

    Where the contestant is not the empty program, the calls may come from a cgroup below its own.
    """
    cgroup = box.bare if contestant.empty else box.cgroup
    program: Program = attached(cgroup, f"{call.hook}{family}")
    with _sockets(box, call, contestant, family, targets, callers) as made:
        # a socket's first send makes its storage
        library.call(call.function, made.load, max(WARM, call.sockets))
        before = program.info()
        library.call(call.function, made.load, call.calls)
        after = program.info()
    ran = after.run_count - before.run_count
    if ran != call.calls:
        raise RuntimeError(f"{call.hook}{family} ran {ran} times in {call.calls} calls")
    return (after.run_time_ns - before.run_time_ns) / ran


@contextmanager
def _sockets(
    box: Box,
    call: Call,
    contestant: Contestant,
    family: int,
    targets: Sequence[tuple[str, int]],
    callers: Path | None,
) -> Iterator[Sockets]:
    if call.sockets and call.hook != "connect":  # each of them has a target of its own
        targets = [targets[n % len(targets)] for n in range(call.sockets)]
    box.enter(bare=not contestant.empty)  # the server's calls are not to count
    with sockets(family, call.kind, targets) as made:
        box.enter(bare=contestant.empty)
        if callers and not contestant.empty:
            move_to(callers)
        pool = made.open(call.sockets)
        if call.connected:
            made.connect(pool)
        made.use(pool)
        yield made
