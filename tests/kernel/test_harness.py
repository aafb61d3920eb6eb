# SPDX-License-Identifier: Apache-2.0
"""The sandbox itself: isolated, and gone afterwards."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from .harness import Box
from .harness.clients import FAMILIES, KINDS, Family, Seen, exchange, outcome, protocol_of


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_direct_exchange(box: Box, family: Family, kind: str) -> None:
    server = family.endpoint(family.backend(2), 8000)
    box.serve(f"{server}/{protocol_of(kind)}")
    address = family.sockaddr(family.backend(2), 8000)
    for bare in (False, True):
        for blocking in (False, True):
            seen = box.call(exchange, family, kind, address, blocking, bare=bare)
            assert seen == Seen(server, address)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_no_way_out(box: Box, family: Family) -> None:
    address = family.sockaddr(family.vip(), 80)
    for kind in KINDS:
        assert box.call(outcome, exchange, family, kind, address) == "ENETUNREACH"


def test_children_are_in_the_cgroup_and_namespace(box: Box) -> None:
    def where() -> tuple[str, str]:
        return Path("/proc/self/cgroup").read_text(), str(Path("/proc/self/ns/net").readlink())

    for bare, cgroup in ((False, box.cgroup), (True, box.bare)):
        own_cgroup, namespace = box.call(where, bare=bare)
        assert own_cgroup.splitlines()[-1].endswith(f"/{cgroup.name}")
        assert namespace != str(Path("/proc/self/ns/net").readlink())
    assert box.run(["cat", "/proc/self/cgroup"]).stdout.rstrip().endswith(f"/{box.cgroup.name}")


def test_exceptions_come_back(box: Box) -> None:
    def fail() -> None:
        raise FileNotFoundError(2, "no such thing", "name")

    with pytest.raises(FileNotFoundError) as caught:
        box.call(fail)
    assert caught.value.filename == "name"
    assert "fail()" in str(caught.value.__cause__) or "in fail" in str(caught.value.__cause__)


def test_slow_children_are_ended(box: Box) -> None:
    with pytest.raises(TimeoutError):
        box.call(time.sleep, 600, timeout=0.05)


def test_nothing_stays() -> None:
    box = Box()
    box.serve("10.0.0.2:80/tcp")
    box.spawn(["sleep", "1000"])
    box.pin.mkdir()
    box.close()
    assert not box.cgroup.exists()
    assert not box.bare.exists()
    assert not box.pin.exists()


def test_names_do_not_resolve(box: Box) -> None:
    def resolve() -> object:
        try:
            return socket.getaddrinfo("debian.org", 80)
        except socket.gaierror:
            return None

    assert box.call(resolve) is None
