# SPDX-License-Identifier: Apache-2.0
"""What this kernel and host can do, and what each missing thing costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .datapath import kernel_features, mounted_root, socket_features
from .listeners import is_local
from .syntax import NODE, parse_frontend

_PORT_RANGE = "/proc/sys/net/ipv4/ip_local_port_range"
_CONTROLLERS = "/proc/cgroups"  # name, hierarchy (0: not v1's), number of cgroups, enabled
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


# By age. What each costs in full: docs/kernels.md.
_FEATURES = (
    ("connect", "4.17", "nothing is balanced"),
    ("cookie", "4.19", "and without sk_storage: sockets remember nothing, so TCP alone"),
    ("recvmsg", "5.2", "UDP is not balanced (but on 4.19.57, 5.1.16): attach --protocols tcp"),
    ("global_data", "5.2", "as sk_storage"),
    ("sk_storage", "5.3", "one LRU remembers for all sockets; no scopes, no exempt, no counts"),
    ("mmap", "5.5", "tables are written by system calls, which takes longer"),
    ("batch", "5.6", "tables are read an element at a time, which takes longer"),
    ("pidfd", "5.6", "and without btf: the sockets of removed backends are not found"),
    ("bpf_link", "5.7", "other programs that know ours can take them off their hooks"),
    ("netns_cookie", "5.7", "as host_netns; affinity knows cgroups, not network namespaces"),
    ("cgroup_id", "5.7", "no exempt, no --from-cgroup; maglev knows network namespaces alone"),
    ("getpeername", "5.8", "getpeername(2) shows the backend's address"),
    ("ring_buffer", "5.8", "no `trace`"),
    ("sock_release", "5.9", "open connections are not counted: least-conn chooses as random does"),
    ("btf", "5.9", "sockets to be ended are found by a search of all processes"),
    ("probe_read", "5.10", "and without sock_read: the kernel's own sockets are counted too long"),
    ("places", "5.12", "a new socket's connect takes longer, until it has memory of its own"),
    ("host_netns", "5.14", "no loopback for node: frontends, and nobody uses --host-only ones"),
    ("mptcp", "5.19", "getpeername(2) of MPTCP clients shows the backend; they are not counted"),
    ("set_retval", "6.1", "refused TCP is as ever; refused UDP learns late, or never"),
    ("post_bind", "6.1", "no --protect-binds"),
    ("sock_read", "6.2", "connects to no service and first sends take longer"),
    ("sock_destroy", "6.5", "sockets are ended by sock_diag"),
    ("preorder", "6.15", "no attach --first: who was there before runs before"),
    ("sock_diag", "4.5", "and without sock_destroy: the sockets of removed backends stay"),
)


def features() -> list[Feature]:
    """Each found by loading a program or asking for it; raises `PermissionDenied`."""
    found = {**kernel_features(), **socket_features()}
    return [Feature(name, found[name], since, cost) for name, since, cost in _FEATURES]


def cgroup_root() -> str:
    """Where cgroup v2 is mounted; empty: nowhere."""
    return mounted_root()


def tagging() -> list[str]:
    """Of net_cls and net_prio, the controllers of cgroup v1 that are in use: that have cgroups.

    Before Linux 5.15 (8520e224f547, "bpf, cgroups: Fix cgroup v2 fallback on v1/v2 mixed mode") a
    socket has room for their tag or for its cgroup v2. When a task first enters a cgroup of
    net_prio (090e28b229af), or one of either is given a tag, all sockets made from then on count as
    the root cgroup's: programs attached to any other see none.
    """
    try:
        lines = _read(_CONTROLLERS).splitlines()
    except FileNotFoundError:
        return []  # no cgroups at all
    found = []
    for line in lines:
        name, hierarchy, cgroups = line.split()[:3]
        if name in ("net_cls", "net_prio") and int(hierarchy) and int(cgroups) > 1:
            found.append(name)
    return found


def own_ports(frontends: Iterable[str], protect_binds: bool) -> Iterator[int]:
    """Ports that servers of this node should leave alone.

    ``node:`` frontends', and where binds are protected also those on this node's own addresses.
    """
    known: dict[str, bool] = {NODE: True}
    for text in frontends:
        address, port, _ = parse_frontend(text)
        if address not in known:
            known[address] = protect_binds and is_local(address)
        if known[address]:
            yield port


def reserved() -> str:
    """The ports that the kernel keeps, as it takes them."""
    return _read(_RESERVED).strip()


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
