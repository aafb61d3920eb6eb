# SPDX-License-Identifier: Apache-2.0
"""What connects cost by the form of the address, the kind of frontend, and who is exempt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kernel.harness import Box
from kernel.harness.host import cgroups
from kernel.harness.kernel import knows_cgroups

from hostreach import Service

from .hooks import CONTESTANTS, SERVICE, TCP, UDP, Call, Cost, time_calls
from .load import (
    Library,
    Shape,
    allow_many_files,
    backend_address,
    backend_addresses,
    more_addresses,
)
from .programs import statistics

if TYPE_CHECKING:
    from hostreach.node import Node

_SECONDS = 120
_CALLS = (
    Call("connect", "UDP, new sockets", "connect_new", UDP, 0, 1000),
    Call("connect", "TCP, new sockets", "connect_new", TCP, 0, 1000),
)


class Form(NamedTuple):
    """Which sockets call what, and from where."""

    text: str
    family: int  # of the sockets
    services: Sequence[tuple[str, int]]
    others: Sequence[tuple[str, int]]  # what is no service
    callers: Path | None = None  # a cgroup in the attached one; None: that itself


_SERVICES = {family: Shape().service_addresses(family) for family in (4, 6)}
_OTHERS = {family: backend_addresses(family) for family in (4, 6)}
_NODE_PORTS = range(30_000, 31_000)
_LISTENING = [backend_address(4, n) for n in range(1_000, 2_000)]
"""Once `more_addresses` were made, the server is there whether hostreach is or not."""

IPV4 = Form("IPv4", 4, _SERVICES[4], _OTHERS[4])
IPV6 = Form("IPv6", 6, _SERVICES[6], _OTHERS[6])
MAPPED = Form(
    "v4-mapped",
    6,
    [(f"::ffff:{host}", port) for host, port in IPV4.services],
    [(f"::ffff:{host}", port) for host, port in IPV4.others],
)
NODE = IPV4._replace(text="node:", services=[(_OTHERS[4][0][0], port) for port in _NODE_PORTS])
BESIDE = IPV4._replace(text="IPv4, a service's port")
OTHERS_EXEMPT = IPV4._replace(text="IPv4, others exempt")
EXEMPT = IPV4._replace(text="IPv4, exempt", services=_LISTENING)


def measure(box: Box, node: Node, library: Library, rounds: int) -> list[Cost]:
    """The tables have a `Shape`'s services already, and the sandbox's addresses are the node's."""

    def measured(*forms: Form) -> list[Cost]:
        return box.call(_measure, box, library, rounds, forms, timeout=_SECONDS)

    node.services.apply(_on_node_ports())
    costs = measured(IPV4, IPV6, MAPPED, NODE)
    node.services.apply(_at_the_backends_port())
    costs += measured(BESIDE)
    if knows_cgroups():
        box.call(more_addresses)
        node.services.apply(_where_a_server_listens())
        with cgroups(box.cgroup, "exempt") as (path,):
            node.exempt.add(str(path))
            costs += measured(OTHERS_EXEMPT, EXEMPT._replace(callers=path))
    return costs


def _on_node_ports() -> list[Service]:
    backends = [f"{host}:{port}" for host, port in _OTHERS[4]]
    return [
        Service.of(f"node:{port}/{protocol}", *(backends[(n + b) % 40] for b in range(10)))
        for n, port in enumerate(_NODE_PORTS)
        for protocol in ("tcp", "udp")
    ]


def _at_the_backends_port() -> list[Service]:
    """So that one look at the ports does not tell what is no service."""
    host, port = _OTHERS[4][0]
    return [Service.of(f"10.97.0.3:{port}/{each}", f"{host}:{port}") for each in ("tcp", "udp")]


def _where_a_server_listens() -> list[Service]:
    """Nothing listens at their backend: TCP is refused if the caller is not exempt after all."""
    return [
        Service.of(f"{host}:{port}/{protocol}", "10.0.0.1:9")
        for host, port in _LISTENING
        for protocol in ("tcp", "udp")
    ]


def _measure(box: Box, library: Library, rounds: int, forms: Sequence[Form]) -> list[Cost]:
    allow_many_files()
    costs: dict[tuple[str, str, str], list[float]] = {}
    with statistics():
        for number in range(rounds):
            for form in forms:
                for call in _CALLS:
                    first = number % len(CONTESTANTS)
                    for contestant in CONTESTANTS[first:] + CONTESTANTS[:first]:
                        to = form.services if contestant is SERVICE else form.others
                        took = time_calls(
                            box, library, call, contestant, form.family, to, form.callers
                        )
                        costs.setdefault((form.text, call.text, contestant.text), []).append(took)
    return [Cost(*key, took) for key, took in costs.items()]
