# SPDX-License-Identifier: Apache-2.0
"""What this kernel and host can do, and what each missing thing costs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .datapath import kernel_features

_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_RESERVED = "/proc/sys/net/ipv4/ip_local_reserved_ports"


class Feature(NamedTuple):
    """Something that hostreach uses where the kernel has it."""

    name: str
    """As HOSTREACH_WITHOUT takes it."""
    found: bool
    since: str
    """The first Linux that has it."""
    without: str
    """What its absence costs."""


_FEATURES = (
    ("connect", "4.17", "nothing is balanced"),
    ("recvmsg", "5.2", "UDP is not balanced: attach --protocols tcp"),
    ("getpeername", "5.8", "getpeername(2) shows the backend's address"),
    ("sock_release", "5.9", "open connections are not counted: least-conn chooses as random does"),
    ("netns_cookie", "5.14", "no loopback for node: frontends, and nobody uses --host-only ones"),
    ("mptcp", "5.19", "getpeername(2) of an MPTCP client shows the backend's address"),
    ("set_retval", "6.1", "a refused send on an unconnected UDP socket is EPERM"),
    ("post_bind", "6.1", "no --protect-binds"),
)


def features() -> list[Feature]:
    """Each found by loading a program or asking for it; raises `PermissionDenied`."""
    found = kernel_features()
    return [Feature(name, found[name], since, cost) for name, since, cost in _FEATURES]


def unreserved(ports: Iterable[int]) -> list[int]:
    """Those ports that the kernel might give to any socket that asks for none, sorted."""
    low, high = map(int, _read(_PORT_RANGE).split())
    reserved = set[int]()
    for part in filter(None, _read(_RESERVED).strip().split(",")):
        first, _, last = part.partition("-")
        reserved.update(range(int(first), int(last or first) + 1))
    return sorted({port for port in ports if low <= port <= high} - reserved)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - starts quicker
        return file.read()
