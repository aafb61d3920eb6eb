# SPDX-License-Identifier: Apache-2.0
"""`top` on a real terminal and a real kernel; how it draws is in tests/unit/test_top."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from hostreach import Service

from .harness import Box, Line, cli, kernel, scaled

if TYPE_CHECKING:
    from hostreach.node import Node

FRONTEND, VIP = "10.96.0.10:80/tcp", ("10.96.0.10", 80)
SERVER = "10.0.0.2:8080"
EMPTY = "10.96.0.11:80/tcp"
_COLORS = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def services(box: Box, node: Node) -> Node:
    box.serve(f"{SERVER}/tcp")
    node.services.add(Service.of(FRONTEND, SERVER, "10.0.0.3:8080,weight=0", name="shop/web"))
    node.services.add(Service.of(EMPTY))
    return node


def load(test: Line) -> None:
    """Connections without pause, three of them kept, and as many that are refused."""
    kept = [socket.create_connection(VIP) for _ in range(3)]
    test.send()
    while not test.poll():
        socket.create_connection(VIP).close()
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("10.96.0.11", 80))
        time.sleep(0.002)
    del kept


def once(box: Box, *arguments: str) -> Any:
    said = cli.run(box.pin, "top", "--once", "--interval=500ms", *arguments)
    assert (said.status, said.stderr) == (0, ""), said
    return said.json if "--json" in arguments else said.stdout


def test_once(box: Box, services: Node) -> None:
    assert services.status().cgroup
    with box.talk(load) as line:
        line.recv()
        found = once(box, "--json", "--sort=refused")
        line.send()
    refused, served = found["services"]
    assert (refused["frontend"], served["frontend"]) == (EMPTY, FRONTEND)
    assert refused["refusals_per_second"] > 1
    assert refused["translations"] == 0
    assert served["translations_per_second"] > 1
    assert served["refusals"] == 0
    assert found["translations_per_second"] == served["translations_per_second"]
    used = served["backends"][0]
    assert (used["address"], used["weight_share"], used["share"]) == (SERVER, 1, 1)
    if kernel.counts_connections():
        assert served["open"] >= 3
        assert used["open_share"] == 1
    found = once(box, "--json", "--filter=SHOP", "--limit=1")
    assert [each["frontend"] for each in found["services"]] == [FRONTEND]
    shown = once(box, "--backends", "--sort=frontend")
    assert [line.split()[0] for line in shown.splitlines()[4:]] == [
        FRONTEND,
        SERVER,
        "10.0.0.3:8080",
        EMPTY,
    ]


def test_no_tables(box: Box) -> None:
    assert once(box, "--json")["services"] == []
    assert "no services" in once(box)
    assert not box.pin.exists()


def test_what_it_refuses(box: Box) -> None:
    for wrong in (
        ["--once", "--sort=odd"],
        ["--once", "--interval=1"],
        ["--once", "--interval=10ms"],
        ["--json"],
        [],  # there is no terminal
    ):
        said = cli.run(box.pin, "top", *wrong)
        assert (said.status, said.stdout, said.stderr.count("\n")) == (2, "", 1), said


class Terminal:
    """A terminal of 80 by 24, and a process on it."""

    def __init__(self, *arguments: str, kind: str = "xterm-256color") -> None:
        self.pid, self._fd = pty.fork()
        if not self.pid:
            sizes = ("COLUMNS", "LINES")  # which readline sets, if only below Python
            about = {name: value for name, value in os.environ.items() if name not in sizes}
            about["TERM"] = kind
            os.execve(cli.SCRIPT, [cli.SCRIPT, *arguments], about)
        self.size(80, 24)
        self.before = termios.tcgetattr(self._fd)
        self.said = b""

    def size(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, keys: str) -> None:
        self.said = b""
        os.write(self._fd, keys.encode())

    def wait(self, text: str) -> list[str]:
        """Until it stands on the screen; the screen."""
        deadline = time.monotonic() + scaled(20)
        while time.monotonic() < deadline:
            screen = self.said.rpartition(b"\x1b[H")[2]
            lines = _COLORS.sub(b"", screen).decode().replace("\r", "").split("\n")
            if any(text in line for line in lines) and len(lines) >= 5:
                return lines
            self._read()
        raise AssertionError(f"{text!r} did not come: {self.said!r}")

    def _read(self) -> bool:
        if select.select([self._fd], [], [], 0.1)[0]:
            try:
                part = os.read(self._fd, 1 << 16)
            except OSError:  # nobody has the other end any more
                return False
            self.said += part
            return bool(part)
        return True

    def status(self) -> int:
        """Of the process, which has to end; the terminal as it was is the test's to see."""
        deadline = time.monotonic() + scaled(10)
        while time.monotonic() < deadline:
            self._read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                self._read()  # its last words
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it goes on: {self.said[-200:]!r}")

    def is_restored(self) -> bool:
        return self.said.endswith(b"\x1b[?1049l") and termios.tcgetattr(self._fd) == self.before

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@contextmanager
def terminal(box: Box, *arguments: str, kind: str = "xterm-256color") -> Iterator[Terminal]:
    made = Terminal("top", "--interval=500ms", *arguments, "--pin", str(box.pin), kind=kind)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.usefixtures("services")
def test_keys(box: Box) -> None:
    with box.talk(load) as line, terminal(box) as seen:
        line.recv()
        seen.wait("refused")
        screen = seen.wait("sort: rate")
        assert max(map(len, screen)) <= 80
        seen.press("b")
        seen.wait("WEIGHT")
        seen.wait(SERVER)
        seen.press("s")
        seen.wait("sort: refused")
        seen.press("r")
        seen.wait("reversed")
        seen.press("/web")
        seen.wait("filter: web_")
        seen.press("\r")
        assert not any(EMPTY in each for each in seen.wait("1 of 2 services"))
        seen.press(" ")
        seen.wait("paused")
        seen.press("+")
        seen.wait(" 1s")
        seen.size(120, 30)
        seen.press("\x1b[B")
        assert any(len(each) > 100 for each in seen.wait("NAME"))
        seen.press("q")
        assert seen.status() == 0
        assert seen.is_restored()
        line.send()


def test_a_terminal_that_cannot(box: Box) -> None:
    """It would show nothing, for ever."""
    with terminal(box, kind="dumb") as seen:
        assert seen.status() == 2
        assert b"use --once" in seen.said


@pytest.mark.usefixtures("services")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_by_signals(box: Box, number: signal.Signals) -> None:
    with terminal(box) as seen:
        seen.wait("sort: rate")
        os.kill(seen.pid, number)
        assert seen.status() == 0
        assert seen.is_restored()


def test_tables_that_come_and_go(box: Box, services: Node) -> None:
    with terminal(box) as seen:
        seen.wait(FRONTEND)
        services.detach(purge=True)
        seen.wait("NOT ATTACHED")
        seen.wait("no services")
        services.attach(cgroup=str(box.cgroup))
        services.services.add(Service.of(EMPTY))
        seen.wait(EMPTY)
        seen.press("q")
        assert seen.status() == 0
