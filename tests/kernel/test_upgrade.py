# SPDX-License-Identifier: Apache-2.0
"""Programs replaced under clients that never pause: no call fails or goes untranslated."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import hostreach
from hostreach import Service
from hostreach.datapath import kernel_features
from hostreach.node import Capacities, Node

from .harness import Box, rawbpf, wait_until
from .harness.bpf import bpftool
from .harness.clients import FAMILIES, KINDS, Family, Seen, exchange
from .harness.line import Line
from .harness.objects import clangs, compile_object, loaded

LONG = os.environ.get("HOSTREACH_LONG") == "1"
REPLACEMENTS = 200 if LONG else 10  # each of all programs
PORT, BACKEND_PORT = 53, 8053

# A knob or a call differs between neighbours, and so every program that has it.
VARIANTS = ("set_retval", "mptcp", "set_retval,mptcp", "")


def server_of(family: Family) -> str:
    return family.endpoint(family.backend(2), BACKEND_PORT)


@pytest.fixture
def node(box: Box) -> Iterator[Node]:
    """A TCP and a UDP service of each family, attached."""
    capacities = Capacities(services=64, backends=256, slots=2048)
    with hostreach.open(str(box.pin), capacities=capacities) as opened:
        for server in sorted({server_of(family) for family in FAMILIES}):
            for protocol in ("tcp", "udp"):
                box.serve(f"{server}/{protocol}")
        for family in FAMILIES:
            for protocol in ("tcp", "udp"):
                frontend = f"{family.endpoint(family.vip(), PORT)}/{protocol}"
                opened.services.set(Service.of(frontend, server_of(family)))
        opened.attach(cgroup=str(box.cgroup))
        yield opened


def exchange_on(test: Line) -> None:
    """Every way to use a service in turn, until told to stop; then how often each was used."""
    done: Counter[str] = Counter()
    while not test.poll():
        for family in FAMILIES:
            vip = family.sockaddr(family.vip(), PORT)
            for kind in KINDS:
                seen = exchange(family, kind, vip)
                assert seen == Seen(server_of(family), vip), (str(family), kind, seen)
                done[f"{family} {kind}"] += 1
        test.send(sum(done.values()))
    test.recv()
    test.send(dict(done))


def finish(clients: Line) -> dict[str, int]:
    clients.send("enough")
    while not isinstance(answer := clients.recv(), dict):
        pass
    return answer


def rounds(clients: Line) -> int:
    """How many calls there were until now; waits for another one."""
    latest: int = clients.recv()
    while clients.poll():
        latest = clients.recv()
    return latest


def test_no_call_fails(box: Box, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    links = pinned_links(box)
    with box.talk(exchange_on, timeout=30 + REPLACEMENTS) as clients:
        before = rounds(clients)
        for number in range(REPLACEMENTS):
            monkeypatch.setenv("HOSTREACH_WITHOUT", VARIANTS[number % len(VARIANTS)])
            changes = node.attach(cgroup=str(box.cgroup)).changes
            assert {action for _, action in changes} == {"replaced"}
            assert dict(changes).keys() == links.keys()
            now = rounds(clients)
            assert now > before, "nobody called meanwhile"
            before = now
        done = finish(clients)
    assert pinned_links(box) == links
    assert len(done) == len(FAMILIES) * len(KINDS)
    print(f"{sum(done.values())} calls beside {REPLACEMENTS} replacements of {len(links)} programs")


def test_from_and_to_another_build(box: Box, node: Node, tmp_path: Path) -> None:
    """Other instructions, not only other knobs: another instruction set, and the newest clang."""
    if not all(kernel_features().values()):
        pytest.skip("this kernel lacks a helper that hostreach would take out before loading")
    links = pinned_links(box)
    with ExitStack() as stack:
        builds = []
        for number, (clang, cpu) in enumerate([("clang", "v3"), (clangs()[-1], "v2")]):
            directory = tmp_path / str(number)
            directory.mkdir()
            file = compile_object(directory, "hostreach", clang, cpu)
            builds.append(stack.enter_context(loaded(file, box.pin)))
        with box.talk(exchange_on, timeout=120) as clients:
            for programs in builds * (10 if LONG else 2):
                for hook in links:
                    rawbpf.replace_by(box.pin / "links" / hook, programs[f"hr_{hook}"])
                rounds(clients)
                changes = node.attach(cgroup=str(box.cgroup)).changes
                assert {action for _, action in changes} == {"replaced"}
                assert {"connect4", "connect6", "sendmsg4", "sendmsg6"} <= dict(changes).keys()
                rounds(clients)
            finish(clients)
    assert pinned_links(box) == links
    wait_until(
        lambda: not any(sum(node.services.active(each.frontend)) for each in node.services),
        "no socket counted",
    )


def pinned_links(box: Box) -> dict[str, int]:
    """Hook -> id of the link that is pinned for it."""
    return {
        path.name: bpftool("link", "show", "pinned", str(path))["id"]
        for path in sorted((box.pin / "links").iterdir())
    }
