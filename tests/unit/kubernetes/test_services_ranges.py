# SPDX-License-Identifier: Apache-2.0
"""Source ranges of a Service's load balancer."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from kube.objects import piece, port, service, taken_service

from hostreach.sources.kubernetes.services import Rules

from .made import made

RANGED: dict[str, Any] = {"type": "LoadBalancer", "ingress": [{"ip": "192.0.2.9"}]}


def ranged(*ranges: str) -> tuple[str | None, list[str]]:
    """The ranges of the load balancer's address, which everybody else may use, and problems."""
    value = service("web", "10.96.0.10", "fd00:96::a", loadBalancerSourceRanges=ranges, **RANGED)
    found, problems = made(value, piece("web-1", "10.0.0.1"))
    for entry in found.values():
        assert not entry[8]
        assert entry[11] is None or entry[0] == "192.0.2.9"
    entry = found["192.0.2.9:80/tcp"]
    assert entry[6] == [("10.0.0.1:8080", 1, "active")]
    return entry[11], problems


def test_source_ranges() -> None:
    assert ranged(" 10.1.0.0/16 ") == ("10.1.0.0/16", [])
    assert ranged("10.1.2.3/16") == ("10.1.0.0/16", [])  # bits to spare
    assert ranged("10.9.0.0/16", "10.1.2.3/32") == ("10.1.2.3/32,10.9.0.0/16", [])
    assert ranged("10.2.0.0/16", "10.3.0.0/16", "10.2.7.0/24") == ("10.2.0.0/15", [])


def test_source_ranges_of_everyone() -> None:
    assert ranged("10.0.0.0/8", "0.0.0.0/0") == (None, [])
    assert ranged("0.0.0.0/1", "128.0.0.0/1") == (None, [])


def test_source_ranges_of_the_other_family_do_not_count() -> None:
    assert ranged("fd00::/8") == (None, [])
    assert ranged("fd00::/8", "10.1.0.0/16") == ("10.1.0.0/16", [])


def test_source_ranges_as_they_may_be_stored() -> None:
    """As ParseCIDRSloppy reads them: zeros that lead are decimal, IPv4 in IPv6 form is IPv4."""
    assert ranged("010.001.00.0/016") == ("10.1.0.0/16", [])
    assert ranged("::ffff:10.1.0.0/112", "::ffff:010.2.0.0/0112") == (
        "10.1.0.0/16,10.2.0.0/16",
        [],
    )
    assert ranged("::ffff:0:0/96") == (None, [])


def shut(*ranges: str) -> tuple[set[str], list[str]]:
    """Load balancer addresses that refuse everyone, whatever their ranges, and problems."""
    six = [{"ip": "192.0.2.9"}, {"ip": "2001:db8::9"}]
    ports = [port(nodePort=30080)]
    value = service("web", "10.96.0.10", "fd00:96::a", ports=ports, type="LoadBalancer")
    value["spec"]["loadBalancerSourceRanges"] = ranges
    value["status"]["loadBalancer"]["ingress"] = six
    found, problems = made(value, piece("web-1", "10.0.0.1"), piece("web-2", "fd00::1"))
    refusing = {entry[0] for entry in found.values() if not entry[6]}
    assert refusing <= {"192.0.2.9", "2001:db8::9"}
    assert len(found) == 5
    return refusing, problems


def test_source_ranges_that_cannot_be_read() -> None:
    """Nobody is let in by a range that nobody can read; the service's other addresses stand."""
    one = ["source-range"]
    four, six = "192.0.2.9", "2001:db8::9"
    assert ranged("all", "10.1.0.0/16") == ("10.1.0.0/16", one)
    assert shut("10.1.0.0/16", "fd00::/200") == ({six}, one)
    assert shut("10.1.0.0/33", "fd00::/8") == ({four}, one)
    assert shut("10.1.0.0/33") == ({four}, one)
    assert shut("10.1.0.0/33", "10.1.0.0/16", "fd00::/8") == (set(), one)
    assert shut("all") == ({four, six}, one)
    assert shut("all", "10.1.0.0/16") == ({six}, one)
    assert shut("10.0.0.0/8,fd00::/8", "") == ({four, six}, one)
    assert shut("10.1.0.0/16", "fd00::/8") == shut("10.1.0.0/16") == shut() == (set(), [])


def test_who_is_refused_is_told() -> None:
    value = service(loadBalancerSourceRanges=["all", "some"], **RANGED)
    taken = taken_service(value)
    assert taken is not None
    (problem,) = taken.problems
    assert problem.message == (
        "source range 'all' is no network (2 such); "
        "its IPv4 load balancer addresses refuse everyone"
    )
    value["status"] = {}
    taken = taken_service(value)
    assert taken is not None
    (problem,) = taken.problems
    assert problem.message == "source range 'all' is no network (2 such)"


def test_those_who_cannot_be_told_apart_are_refused_together() -> None:
    value = service(loadBalancerSourceRanges=["all"], **RANGED)
    found, problems = made(value, piece("web-1", "10.0.0.1"), rules=Rules(source_ranges=False))
    assert (found["192.0.2.9:80/tcp"][6], problems) == ([], ["source-range"])


@pytest.mark.parametrize(("host", "allowed"), [("10.0.2.1", True), ("10.0.3.1", False)])
def test_more_source_ranges_than_an_entry_holds(host: str, allowed: bool) -> None:
    """The host is let in or refused by its own addresses; pods are left alone, and that is told."""
    many = [f"10.0.{2 * n}.0/24" for n in range(90)]
    assert ranged(*many) == (",".join(sorted(many, key=ip_network)), [])
    value = service(loadBalancerSourceRanges=[*many, "10.1.0.0/24"], **RANGED)
    found, problems = made(value, piece("web-1", "10.0.0.1"), rules=Rules(host_addresses=(host,)))
    entry = found["192.0.2.9:80/tcp"]
    assert (entry[8], bool(entry[6]), entry[11]) == (True, allowed, None)
    assert problems == ["source-ranges"]


def test_source_ranges_on_a_kernel_that_cannot_tell_clients_apart() -> None:
    value = service(loadBalancerSourceRanges=["10.1.0.0/16"], **RANGED)
    found, problems = made(value, rules=Rules(source_ranges=False, host_addresses=("10.1.0.1",)))
    assert set(found) == {"10.96.0.10:80/tcp"}
    assert problems == ["source-ranges"]


def test_source_ranges_are_not_for_node_ports() -> None:
    value = service(
        loadBalancerSourceRanges=["10.1.0.0/16"], ports=[port(nodePort=30080)], **RANGED
    )
    assert made(value)[0]["node:30080/tcp"][11] is None
