# SPDX-License-Identifier: Apache-2.0
"""An API server in the box, and the agent that follows it there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kube.apiserver import ApiServer
from kube.chaos import storm

from hostreach.running import remove

from . import linux
from .box import Box, environment
from .cli import SCRIPT
from .line import Line
from .timing import scaled, wait_until

LISTEN = 9879


def serve(line: Line) -> None:
    """An `ApiServer` that does what the line says: a method's name and its arguments."""
    api = ApiServer()
    api.start()
    line.send(api.url)
    while (asked := line.wait()) is not None:
        name, arguments = asked
        if name == "trouble":
            for key, value in arguments[0].items():
                setattr(api.trouble, key, value)
            line.send(None)
        elif name == "storm":
            line.send(storm(api, *arguments))
        else:
            found = getattr(api, name)
            line.send(found(*arguments) if callable(found) else found)


class Cluster:
    """The API server, from the test's side: `put`, `delete`, and all that goes wrong."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.url = line.recv()

    def put(self, *values: object) -> None:
        self._line.ask(("put", values))

    def delete(self, *values: object) -> None:
        self._line.ask(("delete", values))

    def do(self, name: str, *arguments: object) -> Any:
        """Any other method, or an attribute's value."""
        return self._line.ask((name, arguments))

    def start(self, name: str, *arguments: object) -> None:
        """As `do`, without waiting; `answered` tells when `recv` has what it came to."""
        self._line.send((name, arguments))

    def answered(self) -> bool:
        return self._line.has_news()

    def recv(self) -> Any:
        return self._line.recv()

    def trouble(self, **what: object) -> None:
        self._line.ask(("trouble", (what,)))


@contextmanager
def cluster(box: Box, timeout: float = 600) -> Iterator[Cluster]:
    """Stands for as long as the block."""
    with box.talk(serve, timeout=timeout) as line:
        yield Cluster(line)
        line.send(None)


class Agent:
    """`hostreach agent kubernetes` as a process of the box."""

    def __init__(
        self,
        box: Box,
        url: str,
        *arguments: str,
        directory: Path,
        variables: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self._box = box
        self._wrapper = wrapper
        self._environment = variables or {}
        self.kubeconfig = directory / "kubeconfig"
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "current-context": "here",
                    "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [{"name": "c", "cluster": {"server": url}}],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )
        self._log = directory / f"agent-{time.monotonic_ns()}.log"
        self.arguments = (
            *("agent", "kubernetes", f"--pin={box.pin}", f"--cgroup={box.cgroup}"),
            *(f"--kubeconfig={self.kubeconfig}", "--node-name=node-a"),
            *("--max-services=512", "--max-backends=2048", "--max-slots=16384", *arguments),
        )
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        def enter() -> None:
            linux.die_with_parent()
            self._box.enter(bare=True)  # what it does itself is no matter of the box's programs

        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*self._wrapper, SCRIPT, *self.arguments],
                stdin=subprocess.DEVNULL,
                stderr=log,
                stdout=log,
                preexec_fn=enter,  # noqa: PLW1509 - the tests have no threads
                env={**environment(), **self._environment},
            )

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


@contextmanager
def agent(
    box: Box,
    url: str,
    *arguments: str,
    directory: Path,
    variables: Mapping[str, str] | None = None,
    wrapper: Sequence[str] = (),
) -> Iterator[Agent]:
    """``wrapper``: a program that becomes the agent."""
    running = Agent(box, url, *arguments, directory=directory, variables=variables, wrapper=wrapper)
    try:
        yield running
        assert "Traceback" not in running.log, running.log
    finally:
        running.stop(signal.SIGKILL)
        remove(str(box.pin))


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
