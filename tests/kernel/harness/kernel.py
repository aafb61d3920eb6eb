# SPDX-License-Identifier: Apache-2.0
"""What the kernel at hand can do, where it decides what a test may expect; never by its version.

The facts are hostreach's own findings, so HOSTREACH_WITHOUT counts here as it does there. That the
findings are right is for the tests themselves to show: each goes wrong if its fact does. What a
missing feature costs users is in docs/kernels.md.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from .rawmap import ARRAY, RawMap, Shape


@cache
def _features(without: str) -> dict[str, bool]:  # noqa: ARG001 - what is found depends on it
    from hostreach.datapath import kernel_features, socket_features

    return {**kernel_features(), **socket_features()}


def has(feature: str) -> bool:
    """By the name that HOSTREACH_WITHOUT takes."""
    return _features(os.environ.get("HOSTREACH_WITHOUT", ""))[feature]


def switch_off(monkeypatch: pytest.MonkeyPatch, *features: str) -> None:
    """Without these too, until the test ends; "" is none, or several are separated by commas."""
    off = [os.environ.get("HOSTREACH_WITHOUT", ""), *features]
    monkeypatch.setenv("HOSTREACH_WITHOUT", ",".join(filter(None, off)))


def switch_on(monkeypatch: pytest.MonkeyPatch, feature: str) -> None:
    """What `switch_off` had switched off."""
    off = os.environ.get("HOSTREACH_WITHOUT", "").split(",")
    off.remove(feature)
    monkeypatch.setenv("HOSTREACH_WITHOUT", ",".join(off))


def variants() -> tuple[tuple[str, ...], bool]:
    """What to switch off, each after the one before, for other programs; and are all replaced?

    Those that find no service know nothing of the features that are left on an old kernel.
    """
    if has("set_retval"):
        return ("set_retval", "mptcp", "set_retval,mptcp", ""), True
    return ("netns_cookie", "cgroup_id", "netns_cookie,cgroup_id", ""), False


def has_btf() -> bool:
    """The kernel tells of its own types; it may still have no socket iterators."""
    switched_off = os.environ.get("HOSTREACH_WITHOUT", "").split(",")
    return Path("/sys/kernel/btf/vmlinux").exists() and "btf" not in switched_off


def remembers_on_sockets() -> bool:
    """A socket itself holds what it asked for, and programs see its peer.

    Where it does not, one LRU holds it for all, by their cookies: nobody sees that a record is
    older than a connect(AF_UNSPEC). And the programs made for such kernels know nothing of those
    who call: no cgroup, no network namespace; nor may they give the error of a refusal.
    """
    return has("global_data") and has("sk_storage")


def refuses_at_once() -> bool:
    """A hook may give the error of a refusal.

    Where it may not, connect goes to loopback port 0: TCP hears of it at once, connected UDP at
    its second send. An unconnected socket's datagram goes to a closed port, and nobody hears.
    """
    return has("set_retval") and remembers_on_sockets()


def knows_the_host() -> bool:
    """Programs can tell the host's network namespace from others."""
    return has("host_netns") and knows_namespaces()


def knows_namespaces() -> bool:
    """Programs can tell network namespaces apart."""
    return has("netns_cookie") and remembers_on_sockets()


def knows_cgroups() -> bool:
    """Programs can tell which cgroup a task is in."""
    return has("cgroup_id") and remembers_on_sockets()


def shows_services() -> bool:
    """getpeername(2) shows the service's address; otherwise the backend's."""
    return has("getpeername")


def shown(service: tuple[str, int], backend: tuple[str, int]) -> tuple[str, int]:
    """What getpeername(2) says of a socket that asked for the one and was given the other."""
    return service if shows_services() else backend


def counts_connections() -> bool:
    """Open connections are counted by backend."""
    return has("sock_release") and remembers_on_sockets()


def traces() -> bool:
    """Programs tell of each call."""
    return has("ring_buffer") and remembers_on_sockets()


def knows_mptcp() -> bool:
    """What a subflow's connect asked for is known of the MPTCP socket above it."""
    return has("mptcp") and remembers_on_sockets()


def protects_binds() -> bool:
    """--protect-binds is not refused."""
    return has("post_bind") and remembers_on_sockets()


def hooks(*protocols: str) -> set[str]:
    """Those that have a program of ours when these protocols are attached, by default both."""
    found = {"connect4", "connect6"}
    if "udp" in (protocols or ("udp",)):
        found |= {"sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6"}
    if shows_services():
        found |= {"getpeername4", "getpeername6"}
    return found | {"sock_release"} if counts_connections() else found


def knows_its_own() -> bool:
    """Programs can tell the sockets that the kernel itself connects, of whose end none is told."""
    sees = has("sock_read") and holds_places()
    return has_btf() and (has("probe_read") or sees) and remembers_on_sockets()


def counts_sockets() -> bool:
    """Counts are set right by a walk over the sockets that are open."""
    return remembers_on_sockets() and (has("btf") or has("pidfd"))


def holds_places() -> bool:
    """Most connections are kept by their socket's cookie."""
    return has("places") and counts_connections() and has("mmap")


def counts_at_detach() -> bool:
    """Detaching tells how many sockets services have: by places, the iterators, or not at all."""
    return remembers_on_sockets() and (has("btf") or holds_places())


def ends_by_bpf() -> bool:
    return has("btf") and has("sock_destroy") and remembers_on_sockets()


def ends_sockets() -> bool:
    """By BPF or by netlink."""
    if not remembers_on_sockets():  # the LRU has their cookies
        return has("sock_diag")
    return ends_by_bpf() or (counts_sockets() and has("sock_diag"))


def need(fact: bool, why: str) -> None:
    """Skips a test of what this kernel does not have, saying so."""
    if not fact:
        pytest.skip(f"this kernel has no {why}")


def has_mptcp() -> bool:
    """The kernel's own, whatever hostreach makes of it."""
    return Path("/proc/sys/net/mptcp/enabled").exists()


def jits() -> bool:
    """Programs are compiled, and not interpreted."""
    return Path("/proc/sys/net/core/bpf_jit_enable").exists()


def counts_memory() -> bool:
    """A map's: Linux 5.11 to 6.3 estimate it, and take arrays for larger, by their keys."""
    with RawMap.create("memory", Shape(ARRAY, 4, 8, 4096, 0)) as array:
        return array.memory() < (8 + 4) * 4096
