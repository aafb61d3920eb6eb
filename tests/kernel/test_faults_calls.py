# SPDX-License-Identifier: Apache-2.0
"""Every bpf(2) call of a command fails once, in the ways that it can.

The command then says so in one line, or did without that call; either way the tables and hooks are
as before or as after, and the next command works.
"""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import hostreach
from hostreach import Service
from hostreach.sources.file import dump

from .harness import Box, kernel
from .harness.bpf import attached
from .harness.compiled import preloading
from .harness.failing import Failed, Failing, failing, plan
from .harness.rawmap import RawMap
from .harness.timing import SCALE, scaled

LONG = os.environ.get("HOSTREACH_LONG") == "1"
ERRORS = (errno.ENOMEM, errno.E2BIG, errno.EPERM, errno.EINTR, errno.EMFILE)
EMULATED = 5 if SCALE > 4 else 1
"""There each takes seconds, and what is tried is ours and hardly the kernel's."""
KERNEL_SAYS_NO = (errno.E2BIG, errno.EPERM)
"""Answers of kernels that have no such thing: the command may then do without it."""
OBJ_GET, MAP_FREEZE, LINK_UPDATE = 7, 22, 29
"""Of bpf(2)'s commands."""
TRACEPOINT, TRACING = 5, 26
"""Of bpf(2)'s types of programs."""
SIZES = ("--max-services=16", "--max-backends=32", "--max-slots=4096")

END_SOCKETS = f"""
import ctypes, sys, hostreach
from hostreach.errors import KernelError

plan = ctypes.create_string_buffer({plan(1, errno.ENOMEM, command=MAP_FREEZE)!r})
with hostreach.open(sys.argv[1]) as node:
    for _ in range(2):
        ctypes.CDLL(None).fail_by(plan)
        try:
            print(node.end_sockets().method)
        except KernelError as error:
            print(error)
"""
"""While the programs are loaded that end sockets, a call fails, once."""

WEB, OTHER, NEW = "10.96.0.10:80/tcp", "10.96.0.11:53/udp", "10.96.0.12:443/tcp"
ONE, TWO, THREE = "10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080"
BEFORE = [Service.of(WEB, ONE, TWO), Service.of(OTHER, ONE, TWO)]


class State(NamedTuple):
    """All that users may tell an instance by."""

    services: dict[str, Service]
    hooks: frozenset[str]
    pinned: str
    """What is in the pin directory: nothing, tables, or a part of them."""


def state(box: Box) -> State:
    with hostreach.open(str(box.pin)) as node:
        services = {str(each.frontend): each for each in node.services.list()}
    tables = "tables" if (box.pin / "meta").exists() else "a part"
    pinned = tables if box.pin.exists() else "nothing"
    return State(services, frozenset(attached(box.cgroup)), pinned)


@pytest.fixture(scope="module")
def hostreach_that_fails() -> Iterator[Failing]:
    with failing() as process:
        yield process


class Command:
    """A command line of an instance, and what it makes of it if nothing fails."""

    def __init__(self, process: Failing, box: Box, *arguments: str) -> None:
        self._process = process
        self._box = box
        self._arguments = (*arguments, "--pin", str(box.pin))

    def run(self, at: int = 0, error: int = 0) -> Failed:
        return self._process.run(*self._arguments, at=at, error=error)

    def fail_everywhere(
        self, back: Callable[[], None], *, mixes: bool = False, every: int = 1
    ) -> int:
        """At each of its calls (or each of so many); returns how many there are.

        ``back`` makes the state as it was before. ``mixes``: some services may be as before and
        others as after, for the batch has several.
        """
        before, wrong = state(self._box), []
        done = self.run()
        assert done.status == 0, done
        after = state(self._box)
        back()
        assert state(self._box) == before
        every = 1 if LONG else every * EMULATED
        for at in range(1, done.calls + 1, every):
            for error in ERRORS if LONG else (ERRORS[at // every % len(ERRORS)],):
                failed = self.run(at, error)
                found = state(self._box)
                problem = verdict(failed, found, before, after, mixes=mixes)
                if failed.status == 0 and error in KERNEL_SAYS_NO and found.hooks < after.hooks:
                    problem = ""
                if problem:
                    wrong.append(f"call {at}, {errno.errorcode[error]}: {problem}")
                if found != before:
                    back()
        assert not wrong, "\n".join([f"of {done.calls} calls:", *wrong])
        assert self.run().status == 0
        assert state(self._box) == after
        return done.calls


def verdict(failed: Failed, found: State, before: State, after: State, *, mixes: bool) -> str:
    """What is wrong, if anything."""
    said = f"{failed.stderr!r} (status {failed.status})"
    if "Traceback" in failed.stderr:
        return failed.stderr
    if failed.status == 0:
        return "" if found == after else f"did not do it, and did not say so: {found}"
    if failed.status != 1 or failed.stderr.count("\n") != 1:
        return f"not one line: {said}"
    made = before._replace(pinned="tables")  # and nothing in them: whoever comes next fills them
    if found in (before, made, after) or (mixes and is_mixture(found, before, after)):
        return ""
    return f"halfway: {found}; said {said}"


def is_mixture(found: State, before: State, after: State) -> bool:
    """Each service by itself is as before or as after; or detached, and the tables still there."""
    frontends = before.services.keys() | after.services.keys()
    return (
        found.services.keys() <= frontends
        and found.hooks in (before.hooks, after.hooks)
        and found.pinned in (before.pinned, after.pinned)
        and all(
            found.services.get(each) in (before.services.get(each), after.services.get(each))
            for each in frontends
        )
    )


@pytest.fixture
def plain(box: Box) -> Box:
    """With tables and two services, and not attached."""
    with hostreach.open(str(box.pin)) as node:
        node.services.apply(BEFORE)
    return box


def services_again(box: Box) -> None:
    with hostreach.open(str(box.pin)) as node:
        node.services.apply(BEFORE, prune=True)


def test_svc_add(plain: Box, hostreach_that_fails: Failing) -> None:
    add = Command(hostreach_that_fails, plain, "svc", "add", NEW, "--backend", THREE)
    assert add.fail_everywhere(lambda: services_again(plain)) > 10


def test_backend_rm(plain: Box, hostreach_that_fails: Failing) -> None:
    remove = Command(hostreach_that_fails, plain, "backend", "rm", OTHER, TWO)
    assert remove.fail_everywhere(lambda: services_again(plain)) > 10


def test_svc_rm(plain: Box, hostreach_that_fails: Failing) -> None:
    remove = Command(hostreach_that_fails, plain, "svc", "rm", WEB)
    assert remove.fail_everywhere(lambda: services_again(plain)) > 10


def test_apply(plain: Box, hostreach_that_fails: Failing, tmp_path: Path) -> None:
    """One comes, one goes, one changes."""
    file = tmp_path / "services.yaml"
    file.write_text(dump([Service.of(WEB, TWO, THREE), Service.of(NEW, ONE)]))
    apply = Command(hostreach_that_fails, plain, "apply", "--prune", "-f", str(file))
    assert apply.fail_everywhere(lambda: services_again(plain), mixes=True) > 10


def test_tables_are_made(box: Box, hostreach_that_fails: Failing) -> None:
    """By the first service."""
    first = Command(hostreach_that_fails, box, "svc", "add", NEW, "--backend", ONE, *SIZES)
    purge = Command(hostreach_that_fails, box, "detach", "--purge")
    assert first.fail_everywhere(lambda: assert_done(purge), every=4) > 50


def assert_done(command: Command) -> None:
    done = command.run()
    assert done.status == 0, done


def test_attach(box: Box, hostreach_that_fails: Failing) -> None:
    """To tables that are not there yet."""
    attach = Command(hostreach_that_fails, box, "attach", "--cgroup", str(box.cgroup), *SIZES)
    purge = Command(hostreach_that_fails, box, "detach", "--purge")
    assert attach.fail_everywhere(lambda: assert_done(purge), every=11) > 100


def test_nobody_may_trace(box: Box, hostreach_that_fails: Failing) -> None:
    """A machine's policy may be against such programs, whoever loads them: root does without."""
    pin, cgroup = ("--pin", str(box.pin)), ("--cgroup", str(box.cgroup))

    def run(*arguments: str) -> str:
        refused = {"error": errno.EPERM, "program_type": TRACING}
        done = hostreach_that_fails.run(*arguments, *pin, **refused)
        assert (done.status, done.stderr) == (0, ""), done
        return done.stdout

    run("attach", *cgroup, *SIZES)
    run("svc", "add", WEB, "--backend", ONE, "--on-removal", "reset")
    run("attach", *cgroup, "--max-services=32")  # counts what is open
    assert attached(box.cgroup).keys() == kernel.hooks()
    run("svc", "rm", WEB)  # looks for sockets to end
    assert re.search(r"^btf +no ", run("doctor"), re.MULTILINE)
    run("detach")


def test_nobody_may_load_for_tracepoints(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """By which libbpf finds out what other programs may call, too."""
    kernel.switch_off(monkeypatch, "sock_read")  # then the kernel's own sockets are told by a call
    with failing() as process:
        done = process.run(
            *("attach", "--cgroup", str(box.cgroup), "--pin", str(box.pin), *SIZES),
            error=errno.EPERM,
            program_type=TRACEPOINT,
        )
    assert (done.status, done.stderr) == (0, ""), done
    assert attached(box.cgroup).keys() == kernel.hooks()


def test_attach_again(node: hostreach.Node, box: Box, hostreach_that_fails: Failing) -> None:
    """With other programs: the hooks are never without."""
    assert node.status().cgroup
    attach = Command(
        hostreach_that_fails, box, "attach", "--cgroup", str(box.cgroup), "--protocols", "tcp"
    )
    again = Command(hostreach_that_fails, box, "attach", "--cgroup", str(box.cgroup))
    assert attach.fail_everywhere(lambda: assert_done(again), every=11) > 100
    assert_done(again)  # for whoever gets this instance next


def test_growth(node: hostreach.Node, box: Box, hostreach_that_fails: Failing) -> None:
    """When half of the hooks have gone over: what counted in tables that go is counted anew."""
    kernel.need(kernel.counts_sockets() and kernel.has("bpf_link"), "way to go over sockets")
    node.services.apply(BEFORE)
    with RawMap.pinned(box.pin / "active") as active:
        for number in range(active.shape.entries):
            active[number] = struct.pack("=Q", 7)
    wider = ("--max-services", "512", "--pin", str(box.pin))
    failed = hostreach_that_fails.run(
        *("attach", "--cgroup", str(box.cgroup), *wider),
        at=5,
        error=errno.ENOMEM,
        command=LINK_UPDATE,
    )
    assert failed.status == 1, failed
    status = node.status()
    assert status.services is not None
    assert status.services.capacity == 256
    assert {p.name for p in status.programs if p.effective} == kernel.hooks()
    assert sorted(node.services.list(), key=lambda each: each.sort_key) == BEFORE
    assert node.services.active(WEB) == node.services.active(OTHER) == [0, 0]


def test_detach(node: hostreach.Node, box: Box, hostreach_that_fails: Failing) -> None:
    assert node.status().cgroup
    detach = Command(hostreach_that_fails, box, "detach")
    again = Command(hostreach_that_fails, box, "attach", "--cgroup", str(box.cgroup))
    assert detach.fail_everywhere(lambda: assert_done(again), every=3) > 10


def test_purge(node: hostreach.Node, box: Box, hostreach_that_fails: Failing) -> None:
    node.services.apply(BEFORE)

    def back() -> None:
        assert_done(again)
        services_again(box)

    sizes = ("--max-services=256", "--max-backends=1024", "--max-slots=16384")
    purge = Command(hostreach_that_fails, box, "detach", "--purge")
    again = Command(hostreach_that_fails, box, "attach", "--cgroup", str(box.cgroup), *sizes)
    assert purge.fail_everywhere(back, mixes=True, every=7) > 10


def test_purge_that_cannot_look(plain: Box, hostreach_that_fails: Failing) -> None:
    """What is ours is not said to be somebody else's, which he would then remove by hand."""
    purge = ("detach", "--purge", "--pin", str(plain.pin))
    calls = hostreach_that_fails.run(*purge, command=OBJ_GET).calls
    services_again(plain)
    failed = hostreach_that_fails.run(*purge, at=calls - 3, error=errno.EMFILE, command=OBJ_GET)
    assert failed.status == 1, failed
    assert failed.stderr.endswith("cannot look whose it is: Too many open files\n")


def test_a_moment_without_memory(node: hostreach.Node, box: Box) -> None:
    """What the kernel can do is asked once, so that must not be the answer for an agent's life."""
    kernel.need(kernel.ends_by_bpf(), "way for programs to end sockets")
    assert node.status().cgroup
    done = subprocess.run(
        [sys.executable, "-c", END_SOCKETS, str(box.pin)],
        env={**os.environ, "LD_PRELOAD": preloading("failing.c")},
        capture_output=True,
        text=True,
        timeout=scaled(30),
        check=False,
    )
    assert done.returncode == 0, done
    failed, again = done.stdout.splitlines()
    assert failed == "BPF object: cannot load: Cannot allocate memory"
    assert again == "bpf"
