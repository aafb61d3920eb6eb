# SPDX-License-Identifier: Apache-2.0
"""Agents as processes of the box, and the socket by which they talk to systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

from . import linux
from .box import Box, environment
from .cli import SCRIPT
from .timing import scaled, wait_until

LISTEN = 9879
SMALL = ("--max-services=512", "--max-backends=2048", "--max-slots=16384")


class AgentProcess:
    """`hostreach agent KIND` as a process of the box.

    It is in the cgroup that is attached to only if it is not ``bare``: what an agent does itself is
    mostly no matter of the box's programs.
    """

    def __init__(
        self,
        box: Box,
        kind: str,
        *arguments: str,
        directory: Path,
        variables: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
        bare: bool = True,
    ) -> None:
        self._box = box
        self._wrapper = wrapper
        self._environment = variables or {}
        self._bare = bare
        self.kind = kind
        self.pin = box.pin
        self._log = directory / f"agent-{time.monotonic_ns()}.log"
        attaches = kind != "metrics"
        self.arguments = (
            *("agent", kind, f"--pin={box.pin}"),
            *((f"--cgroup={box.cgroup}", *SMALL) if attaches else ()),
            *arguments,
        )
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        def enter() -> None:
            linux.die_with_parent()
            self._box.enter(bare=self._bare)

        with self._log.open("ab") as log:
            return subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
                preexec_fn=enter,  # noqa: PLW1509 - the tests have no threads
                env={**environment(), **self._environment},
            )

    def command(self) -> list[str]:
        """What is run."""
        return [*self._wrapper, SCRIPT, *self.arguments]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_ready(self, seconds: float = 90) -> None:
        wait_until(lambda: self.ask("/readyz")[0] == 200, "the agent being ready", seconds)

    def ask(self, path: str, port: int = LISTEN) -> tuple[int, dict[str, str], str]:
        """Over HTTP, in the box: status, headers and body; 0 if nobody listens."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the agent ended with {self.process.returncode}:\n{self.log}")
        return self._box.call(get, path, port, bare=True)

    def metric(self, line: str) -> float:
        """The value behind, say, ``hostreach_table_writes_total{action="put"}``."""
        for found in self.ask("/metrics")[2].splitlines():
            if found.startswith(line + " "):
                return float(found.rpartition(" ")[2])
        raise KeyError(line)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """Sends a signal and waits for the end; seconds that it took."""
        began = time.monotonic()
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
            self.process.wait(scaled(20))
        return time.monotonic() - began


_Agent = TypeVar("_Agent", bound=AgentProcess)


@contextmanager
def running(agent: _Agent) -> Iterator[_Agent]:
    """For as long as the block; fails if it ever showed a traceback."""
    try:
        yield agent
        assert "Traceback" not in agent.log, agent.log
    finally:
        agent.stop(signal.SIGKILL)


def get(path: str, port: int) -> tuple[int, dict[str, str], str]:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=scaled(5)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = b""
            while part := client.recv(65536):
                answer += part
    except ConnectionRefusedError:
        return 0, {}, ""
    head, _, body = answer.decode().partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    headers = dict(each.split(": ", 1) for each in rest)
    return int(first.split(" ")[1]), headers, body


class Notified:
    """A socket such as systemd's, that keeps what it is told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.05)

    def listen(self) -> Sequence[str]:
        try:
            while True:
                self.said.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return self.said

    def close(self) -> None:
        self._socket.close()


def text(backends: Sequence[str], frontend: str = "10.96.0.10:80/tcp", more: str = "") -> str:
    """What a file of one service says."""
    lines = [f"version: 1\nservices:\n- frontend: '{frontend}'\n{more}  backends:"]
    return "\n".join(lines + [f"  - address: '{backend}'" for backend in backends]) + "\n"


def follow(
    box: Box, tmp_path: Path, *arguments: str, **options: object
) -> AbstractContextManager[AgentProcess]:
    """An agent that follows files."""
    return running(AgentProcess(box, "file", *arguments, directory=tmp_path, **options))  # type: ignore[arg-type]
