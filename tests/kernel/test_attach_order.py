# SPDX-License-Identifier: Apache-2.0
"""The way back is there before anything goes forth, and for as long as something may: looked at
after each system call of an attach and of a detach, and after a SIGKILL in between."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

import hostreach
from hostreach import Service
from hostreach.node import Node

from .harness import Box, kernel, rawbpf, wait_until
from .harness.child import ChildTraceback
from .harness.clients import KINDS, UDP_UNCONNECTED, V4, Seen, exchange, outcome
from .harness.host import opened
from .harness.line import Line
from .harness.stepping import Stepper

LONG = os.environ.get("HOSTREACH_LONG") == "1"
ORDER = [
    *("sock_release", "getpeername4", "getpeername6", "recvmsg4", "recvmsg6"),
    *("sendmsg4", "sendmsg6", "connect4", "connect6"),
]
# What each needs to be there: without sock_release, what connects is counted for ever.
NEEDS = {
    **{f"sendmsg{v}": {f"recvmsg{v}"} for v in "46"},
    "connect4": {"sock_release", "getpeername4", "recvmsg4", "sendmsg4"},
    # also for ::ffff:a.b.c.d, where the IPv4 hooks serve
    "connect6": {"sock_release", "getpeername6", "recvmsg6", "sendmsg6"},
}
UDP_HOOKS = ("recvmsg4", "recvmsg6", "sendmsg4", "sendmsg6")
VIP = ("10.96.0.10", 53)
SERVER = "10.0.0.2:8053"


def by_steps(
    box: Box, action: Callable[[Node], object], kill: int | None = None
) -> list[frozenset[str]]:
    """action(node) in a process of its own: what is attached, each time that this has changed.

    `kill`: it is killed at that change.
    """

    def act(test: Line) -> None:
        with hostreach.open(str(box.pin)) as own:
            test.ask(os.getpid())
            os.kill(os.getpid(), signal.SIGSTOP)
            action(own)
            os.kill(os.getpid(), signal.SIGSTOP)

    cgroup = os.open(box.cgroup, os.O_RDONLY | os.O_DIRECTORY)
    states = [now_attached(cgroup)]
    with (
        contextlib.suppress(ChildTraceback, BrokenPipeError),
        box.talk(act, timeout=120) as line,
        Stepper(line.recv(), ()) as stepper,
    ):
        line.send()
        for _ in stepper.steps():
            if (now := now_attached(cgroup)) != states[-1]:
                states.append(now)
                if len(states) - 1 == kill:
                    os.kill(stepper.pid, signal.SIGKILL)
                    break
    os.close(cgroup)
    return states[1:]


def now_attached(cgroup: int) -> frozenset[str]:
    return frozenset(hook for hook in ORDER if rawbpf.attached(cgroup, hook))


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    """A TCP and a UDP service, with a server; not attached."""
    with opened(box) as opened_node:
        for protocol in ("tcp", "udp"):
            box.serve(f"{SERVER}/{protocol}")
            opened_node.services.add(Service.of(f"10.96.0.10:53/{protocol}", SERVER))
        yield opened_node


def test_one_after_another(box: Box, node: Node) -> None:
    """Each state has one hook more, or one less; none lacks the way back."""
    there = by_steps(box, lambda own: own.attach(cgroup=str(box.cgroup)))
    assert there == [frozenset(ORDER[:count]) for count in range(1, 10)]
    changing = by_steps(box, lambda own: own.attach(cgroup=str(box.cgroup), protocols=("tcp",)))
    back = by_steps(box, lambda own: own.attach(cgroup=str(box.cgroup)))
    away = by_steps(box, lambda own: own.detach())
    assert away == [frozenset(ORDER[:count]) for count in range(8, -1, -1)]
    assert [len(states) for states in (changing, back)] == [4, 4]
    for state in (*there, *changing, *back, *away):
        for hook, needed in NEEDS.items():
            wanted = needed if state >= set(UDP_HOOKS) else needed - set(UDP_HOOKS)
            assert hook not in state or wanted <= state, f"{hook} without {wanted - state}"
    assert node.status().cgroup is None


def check_calls(box: Box, node: Node) -> None:
    """A call goes to the service and sees nothing but the service, or is left alone."""
    effective = {each.name for each in node.status().programs if each.effective}
    for kind in KINDS:
        forth = "sendmsg4" if kind == UDP_UNCONNECTED else "connect4"
        seen = box.call(outcome, exchange, V4, kind, VIP)
        assert seen == (Seen(SERVER, VIP) if forth in effective else "ENETUNREACH"), kind


@pytest.mark.parametrize("at", range(1, 10) if LONG else [6, 8])
def test_killed_attach(box: Box, node: Node, at: int) -> None:
    by_steps(box, lambda own: own.attach(cgroup=str(box.cgroup)), kill=at)
    # a link that was not yet pinned goes with its maker
    wait_until(lambda: len(attached_now(node)) in (at - 1, at), "what was not pinned being gone")
    left = attached_now(node)
    assert left == ORDER[: len(left)]
    check_calls(box, node)
    changes = dict(node.attach(cgroup=str(box.cgroup)).changes)
    assert changes == dict.fromkeys(ORDER[len(left) :], "added")
    check_calls(box, node)


def test_killed_while_it_counts(box: Box, node: Node) -> None:
    """The next one counts: what closed while nobody was attached is not counted for ever."""
    kernel.need(kernel.counts_sockets(), "way to go over sockets")
    frontend = "10.96.0.10:53/tcp"

    def converse(test: Line) -> None:
        client = socket.create_connection(VIP)
        test.ask()
        client.close()
        test.ask()

    node.attach(cgroup=str(box.cgroup))
    with box.talk(converse) as test:
        test.recv()
        node.detach()
        test.ask()
        assert node.services.active(frontend) == [1]
        by_steps(box, lambda own: own.attach(cgroup=str(box.cgroup)), kill=1)
        assert node.services.active(frontend) == [1]
        assert (box.pin / "uncounted").exists()
        node.attach(cgroup=str(box.cgroup))
        assert node.services.active(frontend) == [0]
        assert not (box.pin / "uncounted").exists()
        test.send()


@pytest.mark.parametrize("at", range(1, 9) if LONG else [2])
def test_killed_detach(box: Box, node: Node, at: int) -> None:
    node.attach(cgroup=str(box.cgroup))
    by_steps(box, lambda own: own.detach(), kill=at)
    assert attached_now(node) == ORDER[: 9 - at]
    check_calls(box, node)
    node.detach()
    assert attached_now(node) == []
    assert not (box.pin / "links").exists()


def attached_now(node: Node) -> list[str]:
    return [each.name for each in node.status().programs if each.effective]
