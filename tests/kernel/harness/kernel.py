# SPDX-License-Identifier: Apache-2.0
"""What the kernel at hand can do, where it decides what a test may expect; never by its version.

The facts are hostreach's own findings, so HOSTREACH_WITHOUT counts here as it does there. That the
findings are right is for the tests themselves to show: each goes wrong if its fact does.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest


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


def variants() -> tuple[tuple[str, ...], bool]:
    """What to switch off, each after the one before, for other programs; and are all replaced?

    Those that find no service know nothing of the features that are left on an old kernel.
    """
    if has("set_retval"):
        return ("set_retval", "mptcp", "set_retval,mptcp", ""), True
    return ("netns_cookie", "cgroup_id", "netns_cookie,cgroup_id", ""), False


def refuses_at_once() -> bool:
    """A hook may give the error of a refusal.

    Where it may not, connect goes to loopback port 0: TCP hears of it at once, connected UDP at
    its second send. An unconnected socket's datagram goes to a closed port, and nobody hears.
    """
    return has("set_retval")


def knows_the_host() -> bool:
    """User space can say which network namespace is the host's."""
    return has("host_netns")


def counts_sockets() -> bool:
    """How many sockets services have, and which closed while nobody looked."""
    return has("btf") or has("pidfd")


def ends_by_bpf() -> bool:
    return has("btf") and has("sock_destroy")


def ends_sockets() -> bool:
    """By BPF or by netlink."""
    return ends_by_bpf() or (counts_sockets() and has("sock_diag"))


def need(fact: bool, why: str) -> None:
    """Skips a test of what this kernel does not have, saying so."""
    if not fact:
        pytest.skip(f"this kernel has no {why}")


def has_mptcp() -> bool:
    """The kernel's own, whatever hostreach makes of it."""
    return Path("/proc/sys/net/mptcp/enabled").exists()
