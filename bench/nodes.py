# SPDX-License-Identifier: Apache-2.0
"""Network namespaces of clients, each joined to the servers' by a veth pair of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kernel.harness import Box, linux


class Client:
    """A network namespace whose only way leads to the box's, where the servers are."""

    def __init__(self, box: Box, number: int) -> None:
        self._fd = -1
        self._box = box
        self._here = f"client{number}"  # the end of the pair that is in the box
        thread = threading.Thread(target=self._make)  # only the thread that unshares moves
        thread.start()
        thread.join()
        if self._fd < 0:
            raise RuntimeError("no network namespace")
        there = f"/proc/{os.getpid()}/fd/{self._fd}"
        net = f"10.1.{number}."
        pair = ("type", "veth", "peer", "eth0", "netns", there)
        self._in_box("ip", "link", "add", self._here, *pair)
        self._in_box("ip", "address", "add", f"{net}1/24", "dev", self._here)
        self._in_box("ip", "link", "set", self._here, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "address", "add", f"{net}2/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", f"{net}1")

    def enter(self) -> None:
        """Moves the calling thread in; sockets that it makes from now on are there."""
        linux.setns(self._fd, linux.CLONE_NEWNET)

    def run(self, *argv: str, text: str = "") -> None:
        """A program in there, to its end."""
        _run(argv, self.enter, text)

    def close(self) -> None:
        """The pair goes first, so that nothing is left in the box's namespace."""
        self._in_box("ip", "link", "delete", self._here)
        os.close(self._fd)

    def _make(self) -> None:
        linux.unshare(linux.CLONE_NEWNET)
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("10000 65535")

    def _in_box(self, *argv: str) -> None:
        _run(argv, lambda: self._box.enter(bare=True), "")


@contextmanager
def clients(box: Box, count: int) -> Iterator[Sequence[Client]]:
    """So many of them, gone at the end of the block."""
    made: list[Client] = []
    try:
        for number in range(1, count + 1):
            made.append(Client(box, number))  # noqa: PERF401 - those made so far are to be closed
        yield made
    finally:
        for each in made:
            each.close()


def _run(argv: Sequence[str], enter: Callable[[], None], text: str) -> None:
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, preexec_fn=enter, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
