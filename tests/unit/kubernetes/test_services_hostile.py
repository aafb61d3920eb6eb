# SPDX-License-Identifier: Apache-2.0
"""What a hostile or broken API may say of a Service: it is left out, and the rest stands."""

from __future__ import annotations

import re
from typing import Any

import pytest
from kube.objects import (
    NEW,
    piece,
    port,
    service,
    taken_service,
    taken_slice,
)

from hostreach.errors import InvalidInput
from hostreach.sources.kubernetes import services
from hostreach.sources.kubernetes.services import Rules

from .made import made


@pytest.mark.parametrize(
    "vip",
    [
        *("0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1", "x", "::ffff:127.0.0.1"),
        *("0127.0.0.1", "00.0.0.0", "10..0.1", "10.0.0.1.", "10.0.0", "0x7.0.0.1", "0300.0.0.1"),
        *("\u0661.0.0.1", "10.0.0.1\n", " 10.0.0.1", "fe80::1%1", "::ffff:1.2.3"),
    ],
)
def test_vips_that_cannot_be(vip: str) -> None:
    found, problems = made(service(externalIPs=[vip, "192.0.2.8"]))
    assert [*found] == ["10.96.0.10:80/tcp", "192.0.2.8:80/tcp"]
    assert problems == ["address"]


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.1.1", "224.0.0.1", "0.0.0.0", "fd00::1", "x", ""]
)
def test_endpoints_that_cannot_be(address: str) -> None:
    bad = {"addresses": [address]}
    found, problems = made(service(), piece("web-1", bad, "10.0.0.1", bad, family="IPv4"))
    assert [backend[0] for backend in found["10.96.0.10:80/tcp"][6]] == ["10.0.0.1:8080"]
    assert problems == ["endpoint"]


@pytest.mark.parametrize("address", ["::1", "fe80::1", "ff02::1", "::"])
def test_ipv6_endpoints_that_cannot_be(address: str) -> None:
    _, problems = made(service("web", "fd00:96::a"), piece("web-1", address))
    assert problems == ["endpoint"]


def test_an_endpoint_without_addresses() -> None:
    assert made(service(), piece("web-1", {"addresses": []}, "10.0.0.1"))[1] == ["endpoint"]


def test_the_nodes_own_addresses_are_as_good_as_any() -> None:
    rules = Rules(host_addresses=("192.0.2.1",))
    found, problems = made(
        service(externalIPs=["192.0.2.1"]), piece("web-1", "192.0.2.1"), rules=rules
    )
    assert not problems
    assert [backend[0] for backend in found["192.0.2.1:80/tcp"][6]] == ["192.0.2.1:8080"]


def test_far_too_many_ports() -> None:
    many = [port(n % 65535 + 1, f"p{n}") for n in range(100_000)]
    with pytest.raises(InvalidInput, match="100000 ports"):
        taken_service(service(ports=many))
    with pytest.raises(InvalidInput, match="100000 ports"):
        taken_slice(piece("web-1", "10.0.0.1", ports=many))


def test_far_too_many_addresses_of_many_ports() -> None:
    """Each port at each address is an entry, on every node; what the cluster gave goes before."""
    ports = [port(n + 1, f"p{n}", nodePort=n + 1) for n in range(4096)]
    external = [f"192.0.{n >> 8}.{n & 255}" for n in range(2, 3000)]
    ingress = [{"ip": "203.0.113.1"}]
    found, problems = made(
        service(ports=ports, externalIPs=external, type="LoadBalancer", ingress=ingress)
    )
    assert problems == ["address"]
    assert len(found) == 4 * 4096
    assert {at for at in found if at.endswith(":1/tcp")} == {
        *("10.96.0.10:1/tcp", "node:1/tcp", "203.0.113.1:1/tcp", "192.0.0.2:1/tcp")
    }
    found, problems = made(service(externalIPs=external))
    assert (len(found), problems) == (2999, [])


def test_far_too_many_endpoints_of_many_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes first stands, and the rest is not even worked out."""
    monkeypatch.setattr(services, "TOGETHER_MAX", 100)
    asked: list[object] = []
    endpoints_of = services.endpoints_of

    def counted(*arguments: Any) -> dict[str, int]:
        asked.append(arguments[0])
        return endpoints_of(*arguments)

    monkeypatch.setattr(services, "endpoints_of", counted)
    ports = [port(n + 1, f"p{n}") for n in range(50)]
    one = piece("web-1", *(f"10.0.0.{n}" for n in range(1, 31)), ports=ports)
    found, problems = made(service(ports=ports), one)
    assert [*found] == ["10.96.0.10:1/tcp", "10.96.0.10:2/tcp", "10.96.0.10:3/tcp"]
    assert problems == ["endpoints"]
    assert len(asked) == 4


def test_far_too_many_endpoints_are_cut_the_same_way_each_time() -> None:
    many = [f"10.{n >> 8}.{n & 255}.1" for n in range(5000)]
    found, problems = made(service(), piece("web-1", *many))
    turned, _ = made(service(), piece("web-1", *many[::-1]))
    assert len(found["10.96.0.10:80/tcp"][6]) == 4096
    assert (found, problems) == (turned, ["endpoints"])


@pytest.mark.parametrize("name", ["a b", "a\nb", "\x1b[2J", "", "a/b", "x" * 250])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(InvalidInput, match="name") as raised:
        taken_service(service(name))
    assert str(raised.value).isprintable()


def test_port_names_that_cannot_be() -> None:
    _, problems = made(service(ports=[port(80, "a\x07b"), port(81, "b" * 300), port(82, "c")]))
    assert problems == ["port", "port"]


def test_ports_given_twice() -> None:
    found, problems = made(service(ports=[port(80, "a"), port(80, "b")]))
    assert [*found] == ["10.96.0.10:80/tcp"]
    assert found["10.96.0.10:80/tcp"][3] == "default/web:a"
    assert problems == ["port"]


def test_when_the_change_began() -> None:
    for text, seconds in (
        ("2026-06-01T00:00:00.123456789Z", 1780272000.123456),
        ("2026-06-01T00:00:00Z", 1780272000.0),
        ("yesterday", None),
    ):
        taken = taken_slice(piece(changed=text))
        assert taken is not None
        assert taken.changed == seconds


def test_messages_are_one_line() -> None:
    kube = taken_service(service(externalIPs=["1\n2", "\x00"], created=NEW))
    assert kube is not None
    assert all(re.fullmatch(r"[ -~]+", each.message) for each in kube.problems)
