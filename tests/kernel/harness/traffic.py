# SPDX-License-Identifier: Apache-2.0
"""Services of each family and protocol, and a client that never pauses while they change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hostreach import Service

from .box import Box
from .clients import FAMILIES, KINDS, Family, Seen, exchange
from .line import Line

if TYPE_CHECKING:
    from hostreach.node import Node

PORT, BACKEND_PORT = 53, 8053


def server_of(family: Family) -> str:
    return family.endpoint(family.backend(2), BACKEND_PORT)


def services() -> list[Service]:
    by_frontend = {
        f"{family.endpoint(family.vip(), PORT)}/{protocol}": server_of(family)
        for family in FAMILIES
        for protocol in ("tcp", "udp")
    }
    return [Service.of(frontend, server) for frontend, server in sorted(by_frontend.items())]


def serve(box: Box, node: Node) -> None:
    """The services, and servers behind them."""
    for service in services():
        box.serve(f"{service.backends[0].address}/{service.frontend.protocol}")
    node.services.apply(services())


def _call_on(test: Line) -> None:
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


class Calls:
    """What the client has done so far."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.made = 0

    def wait(self) -> None:
        """Until each kind of call was made once more, begun after this."""
        for _ in range(2):
            self.made = self._line.recv()
            while self._line.poll():
                self.made = self._line.recv()


@contextmanager
def calling(box: Box, timeout: float = 60) -> Iterator[Calls]:
    """Calls without pause meanwhile; the first that fails, or shows the backend, ends the test."""
    with box.talk(_call_on, timeout=timeout) as line:
        calls = Calls(line)
        calls.wait()
        yield calls
        line.send("enough")
        while not isinstance(done := line.recv(), dict):
            pass
    assert len(done) == len(FAMILIES) * len(KINDS)
